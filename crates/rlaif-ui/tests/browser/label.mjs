// Labels pairs as a person would, by keys alone: at desktop and phone width, in light and dark, with a reload in
// the middle and two annotators at once. `page.rs` starts the server, and compares the study with what was typed.
//
//     node label.mjs PLAN.json [SCREENSHOT_FOLDER]

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { end, open } from "../../../rlaif-eval/tests/browser/driver.mjs";

const [plan, screenshots] = process.argv.slice(2);
const { owner, annotators, forged, axe } = JSON.parse(readFileSync(plan, "utf8"));
if (screenshots) mkdirSync(screenshots, { recursive: true });
const host = new URL(owner).host;

let failures = 0;
const check = (holds, what) => {
  if (!holds) failures += 1;
  console.log(`${holds ? "ok  " : "FAIL"} ${what}`);
};

/** Waits until an expression is true in the page. */
async function until(tab, expression, what) {
  for (let tries = 0; tries < 400; tries += 1) {
    if (await tab.run(expression)) return;
    await new Promise((done) => setTimeout(done, 25));
  }
  throw new Error(`${what}: ${await tab.run("document.body.innerText")}`);
}

const CODES = { Enter: 13, Escape: 27, " ": 32, Tab: 9 };
async function key(tab, name) {
  const text = name.length === 1 ? name : name === "Enter" ? "\r" : undefined;
  const code = CODES[name] ?? name.toUpperCase().charCodeAt(0);
  const event = { key: name, windowsVirtualKeyCode: code, nativeVirtualKeyCode: code };
  await tab.page("Input.dispatchKeyEvent", { type: text ? "keyDown" : "rawKeyDown", text, unmodifiedText: text, ...event });
  await tab.page("Input.dispatchKeyEvent", { type: "keyUp", ...event });
}

async function shot(tab, name) {
  if (!screenshots) return;
  const { data } = await tab.page("Page.captureScreenshot", { captureBeyondViewport: true });
  writeFileSync(join(screenshots, `${name}.png`), Buffer.from(data, "base64"));
}

const done = "Number(document.querySelector('#progress progress')?.value ?? -1)";
const ready = "document.querySelector('#answer-1') !== null";

async function accessible(tab, name) {
  if (!axe) return;
  await tab.page("Runtime.evaluate", { expression: readFileSync(axe, "utf8") });
  const found = await tab.run(`axe.run().then((result) => JSON.stringify(result.violations.map((v) =>
    [v.id, v.nodes.map((node) => node.target.join(" ") + " " + (node.any[0]?.message ?? "")).slice(0, 3)])))`);
  check(found === "[]", `${name}: axe finds nothing (${found})`);
}

/** Nothing of a text ran, nothing is wider than the screen, nothing came from elsewhere, the console is silent. */
async function clean(tab, name) {
  check((await tab.run("window.pwned")) === undefined, `${name}: no script of a text ran`);
  check((await tab.run("document.images.length")) === 0, `${name}: no image`);
  const room = await tab.run("[document.documentElement.scrollWidth, document.documentElement.clientWidth]");
  check(room[0] <= room[1], `${name}: nothing is wider than the screen (${room})`);
  const shown = await tab.run("document.body.innerText");
  check(!/[\u202a-\u202e\u2066-\u2069]/.test(shown), `${name}: no character turns text round`);
  const foreign = tab.own("Network.requestWillBeSent").map((e) => e.request.url)
    .filter((url) => !url.startsWith("data:") && !url.startsWith("blob:") && new URL(url).host !== host);
  check(foreign.length === 0, `${name}: no request to another host (${foreign})`);
  const said = [...tab.own("Runtime.exceptionThrown").map((e) => e.exceptionDetails.text),
    ...tab.own("Runtime.consoleAPICalled").map((e) => e.type), ...tab.own("Log.entryAdded").map((e) => e.entry.text)];
  check(said.length === 0, `${name}: the console is silent (${said})`);
}

/** The key of the better answer: the text says which one it is. */
const better = async (tab) => ((await tab.run("document.querySelector('.answer .text').textContent")).includes("good") ? "1" : "2");

/** One answer: every third with a strength, a facet, a note or another key, then the key. */
async function answer(tab, turn) {
  const before = await tab.run(done);
  const choice = await better(tab);
  if (turn % 7 === 3) {
    await key(tab, "n");
    for (const letter of "ok") await key(tab, letter);
    await key(tab, "Escape");
  }
  if (turn % 7 === 5) {
    // A strength by keyboard, then Enter.
    const at = choice === "1" ? 1 : 5;
    await tab.run(`document.querySelectorAll("input[name=strength]")[${at}].focus()`);
    await key(tab, " ");
    await key(tab, "Enter");
  } else {
    await key(tab, choice);
  }
  await until(tab, `${done} === ${before + 1}`, `answer ${turn} is counted`);
}

async function annotator({ link, name, width, height, scheme, items }) {
  const tab = await open(link, width, height, scheme);
  const label = `${name} ${width} ${scheme}`;
  await until(tab, ready, "the first item");
  await shot(tab, `label-${width}-${scheme}`);
  await accessible(tab, label);
  let folds = 0;
  return {
    label,
    tab,
    async step(turn) {
      folds += await tab.run("document.querySelectorAll('.answers details.fold:not([open])').length");
      if (turn === 4) {
        await key(tab, "?");
        await until(tab, "document.querySelector('dialog[open]') !== null", "the help");
        await shot(tab, `help-${width}-${scheme}`);
        await accessible(tab, `${label}, help`);
        await key(tab, "Escape");
        await until(tab, "document.querySelector('dialog') === null", "the help is closed");
      }
      if (turn === 6) {
        // Undone and answered again.
        const before = await tab.run(done);
        await key(tab, "u");
        await until(tab, `${done} === ${before - 1}`, "the undo");
        await answer(tab, 0);
      }
      if (turn === Math.floor(items / 2)) {
        await key(tab, "n");
        for (const letter of "half") await key(tab, letter);
        await key(tab, "Escape");
        await new Promise((later) => setTimeout(later, 1500));
        await tab.page("Page.reload");
        await new Promise((later) => setTimeout(later, 300));
        await until(tab, ready, "the page after a reload");
        const note = await tab.run("document.getElementById('note').value");
        check(note === "half", `${label}: the note is there after a reload (${note})`);
        check((await tab.run(done)) === turn, `${label}: the answers are there after a reload`);
      }
      await answer(tab, turn);
    },
    async finish() {
      await until(tab, "document.querySelector('main h2').textContent === 'Done'", "the end");
      check(folds > 0, `${label}: toxic answers are folded (${folds})`);
      await accessible(tab, `${label}, at the end`);
      await clean(tab, label);
      await tab.close();
    },
  };
}

try {
  // Both at once: their answers take turns.
  const people = [];
  for (const one of annotators) people.push(await annotator(one));
  for (let turn = 0; turn < annotators[0].items; turn += 1) {
    await Promise.all(people.map((one) => one.step(turn)));
  }
  for (const one of people) await one.finish();

  const tab = await open(owner, 1280, 900, "light");
  await until(tab, "document.querySelectorAll('table').length >= 3", "agreement");
  const shown = await tab.run("document.body.innerText");
  check(annotators.every(({ name }) => shown.includes(name)), "owner: every annotator is listed");
  check(shown.includes("100.0 %"), "owner: both agree");
  await shot(tab, "owner-1280-light");
  await accessible(tab, "owner");
  await tab.run("[...document.querySelectorAll('nav button')].find((one) => one.textContent === 'Runs').click()");
  await until(tab, "document.querySelectorAll('main input[type=checkbox]').length === 3", "the list of runs");
  await tab.run("[...document.querySelectorAll('main input[type=checkbox]')].slice(0, 2).forEach((one) => one.click())");
  await until(tab, "document.querySelectorAll('figure svg polyline').length === 4", "curves of two runs");
  const drawn = await tab.run("document.querySelector('figure svg').getBoundingClientRect().height");
  check(drawn > 50, `owner: curves are drawn (${drawn})`);
  await shot(tab, "runs-1280-light");
  await accessible(tab, "runs");
  await clean(tab, "owner");
  await tab.close();

  const stranger = await open(forged, 1280, 900, "dark");
  await until(stranger, "document.querySelector('main h2')?.textContent === 'Not available'", "a forged token");
  await accessible(stranger, "a forged token");
  check(!(await stranger.run("document.body.innerText")).includes("good"), "a forged token shows no item");
  await stranger.close();
} catch (error) {
  check(false, error.stack);
} finally {
  await end();
}
console.log(failures === 0 ? "all well" : `${failures} failures`);
process.exit(failures === 0 ? 0 : 1);
