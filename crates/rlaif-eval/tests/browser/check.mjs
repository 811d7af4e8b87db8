// Opens a report and a trade-off in a headless browser, at desktop and phone width, in light and
// dark, and checks what only a browser can tell: that nothing of a response runs, that nothing is
// loaded, that tables sort, that nothing is wider than the screen.
//
//     cargo run -p rlaif-eval --example sample_report -- FOLDER
//     node crates/rlaif-eval/tests/browser/check.mjs FOLDER [SCREENSHOT_FOLDER]
//
// `driver.mjs` says what it needs.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

import { end, open } from "./driver.mjs";

const [folder, screenshots] = process.argv.slice(2);
if (!folder) {
  console.error("usage: node check.mjs FOLDER [SCREENSHOT_FOLDER]");
  process.exit(2);
}
if (screenshots) mkdirSync(screenshots, { recursive: true });

let failures = 0;
const check = (holds, what) => {
  if (!holds) failures += 1;
  console.log(`${holds ? "ok  " : "FAIL"} ${what}`);
};

async function inspect(file, width, height, scheme) {
  const name = `${file} ${width} ${scheme}`;
  const tab = await open(pathToFileURL(resolve(folder, file)).href, width, height, scheme);
  const { page, run, own } = tab;
  check((await run("document.querySelectorAll('table').length")) > 0, `${name}: the page is there`);
  check((await run("window.pwned")) === undefined, `${name}: no script of a text ran`);
  check((await run("document.title")) !== "run", `${name}: the title is its own`);
  check((await run("document.getElementById('escaped')")) === null, `${name}: no text got out of its cell`);
  check((await run("document.images.length")) === 0, `${name}: no image`);
  check((await run("document.querySelectorAll('script').length")) === 1, `${name}: one script, the page's own`);
  const room = await run("[document.documentElement.scrollWidth, document.documentElement.clientWidth]");
  check(room[0] <= room[1], `${name}: nothing is wider than the screen (${room})`);
  const paper = await run("getComputedStyle(document.body).backgroundColor");
  check((paper === "rgb(255, 255, 255)") === (scheme === "light"), `${name}: it is ${scheme} (${paper})`);
  const shot = async (suffix) => {
    if (!screenshots) return;
    const { data } = await page("Page.captureScreenshot", { captureBeyondViewport: true });
    const label = `${file.replace(".html", "")}-${width}-${scheme}${suffix}.png`;
    writeFileSync(join(screenshots, label), Buffer.from(data, "base64"));
  };
  await shot("");

  // Every column of every table, both ways round: rows stay, and stand in order.
  const sorted = await run(`(() => {
    const wrong = [];
    for (const [t, table] of [...document.querySelectorAll("table.sortable")].entries()) {
      const count = table.tBodies[0].rows.length;
      for (const [c, heading] of [...table.tHead.rows[0].cells].entries()) {
        for (const way of ["ascending", "descending"]) {
          heading.querySelector("button").click();
          if (heading.getAttribute("aria-sort") !== way) wrong.push([t, c, way, "aria-sort"]);
          const rows = [...table.tBodies[0].rows];
          if (rows.length !== count) wrong.push([t, c, way, "rows"]);
          const cells = rows.map((row) => row.cells[c].dataset.value).filter((v) => v !== undefined);
          const numbers = cells.filter((v) => v !== "").map(Number);
          const sign = way === "ascending" ? 1 : -1;
          if (numbers.some((v, i) => i > 0 && sign * (v - numbers[i - 1]) < 0)) wrong.push([t, c, way, "order"]);
          const blank = cells.indexOf("");
          if (blank >= 0 && cells.slice(blank).some((v) => v !== "")) wrong.push([t, c, way, "blanks last"]);
        }
      }
    }
    return JSON.stringify(wrong);
  })()`);
  check(sorted === "[]", `${name}: tables sort by every column (${sorted})`);

  if (file === "report.html") {
    const folds = await run("[...document.querySelectorAll('details.fold')].map((d) => d.open)");
    check(folds.length > 0 && folds.every((open) => !open), `${name}: toxic texts are folded (${folds.length})`);
    const leaks = await run("[...document.querySelectorAll('details.fold .text')].filter((t) => t.checkVisibility()).length");
    check(leaks === 0, `${name}: and not to be seen`);
    await run("document.getElementById('unfold').click()");
    const open = await run("[...document.querySelectorAll('.samples details.fold')].every((d) => d.open)");
    check(open, `${name}: they open on demand`);
    const whole = await run("document.body.innerText");
    check(whole.includes("<script>document.title"), `${name}: markup in a response is shown as text`);
    check(whole.includes("U+202E") && !/[\u202a-\u202e\u2066-\u2069]/.test(whole), `${name}: characters that turn text round are shown as codes`);
    const aside = await run("getComputedStyle(document.querySelector('.samples .text')).unicodeBidi");
    check(aside === "isolate", `${name}: texts are isolated from each other`);
    // Even a script that somehow got into the page is refused by its policy.
    await run("(() => { const s = document.createElement('script'); s.textContent = 'window.pwned = 2'; document.body.append(s); })()");
    check((await run("window.pwned")) === undefined, `${name}: the policy refuses scripts but its own`);
  }
  const asked = own("Network.requestWillBeSent").map((e) => e.request.url).filter((u) => u !== tab.url && !u.startsWith("data:"));
  check(asked.length === 0, `${name}: nothing else is loaded (${asked})`);
  const thrown = own("Runtime.exceptionThrown").map((e) => e.exceptionDetails.text);
  const said = own("Runtime.consoleAPICalled").map((e) => e.type);
  // The refusal that was provoked above is the one entry that belongs here.
  const logged = own("Log.entryAdded").map((e) => e.entry.text).filter((text) => !text.includes("Content Security Policy directive"));
  const refusals = own("Log.entryAdded").length - logged.length;
  check(refusals <= (file === "report.html" ? 1 : 0), `${name}: the policy refuses nothing of the page's own`);
  check(thrown.length + said.length + logged.length === 0, `${name}: the console is silent (${[...thrown, ...said, ...logged]})`);
  await tab.close();
}

try {
  for (const file of ["report.html", "tradeoff.html", "runs.html"]) {
    const size = readFileSync(join(folder, file)).length;
    check(size < 5_000_000, `${file}: ${size} bytes, less than 5 MB`);
    for (const [width, height] of [[1280, 900], [390, 844]]) {
      for (const scheme of ["light", "dark"]) await inspect(file, width, height, scheme);
    }
  }
} finally {
  await end();
}
console.log(failures === 0 ? "all well" : `${failures} failures`);
process.exit(failures === 0 ? 0 : 1);
