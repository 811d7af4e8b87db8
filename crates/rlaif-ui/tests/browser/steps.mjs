// Steps that tests in the browser share.
//
//     node TEST.mjs PLAN.json [SCREENSHOT_FOLDER]

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { end } from "../../../rlaif-eval/tests/browser/driver.mjs";

const [file, screenshots] = process.argv.slice(2);
export const plan = JSON.parse(readFileSync(file, "utf8"));
if (screenshots) mkdirSync(screenshots, { recursive: true });
const host = new URL(plan.owner).host;

let failures = 0;
export const check = (holds, what) => {
  if (!holds) failures += 1;
  console.log(`${holds ? "ok  " : "FAIL"} ${what}`);
};

/** Runs the steps of a test, and ends the process. */
export async function run(steps) {
  try {
    await steps();
  } catch (error) {
    check(false, error.stack);
  } finally {
    await end();
  }
  console.log(failures === 0 ? "all well" : `${failures} failures`);
  process.exit(failures === 0 ? 0 : 1);
}

/** Waits until an expression is true in the page. */
export async function until(tab, expression, what) {
  for (let tries = 0; tries < 400; tries += 1) {
    if (await tab.run(expression)) return;
    await new Promise((done) => setTimeout(done, 25));
  }
  throw new Error(`${what}: ${await tab.run("document.body.innerText")}`);
}

/** An expression over what the page of annotators keeps: `state` and `drafts`. */
export const labelling = (expression) => `import("/label.js").then(({ state, drafts }) => ${expression})`;

const CODES = { Enter: 13, Escape: 27, " ": 32, Tab: 9 };
export async function key(tab, name) {
  const text = name.length === 1 ? name : name === "Enter" ? "\r" : undefined;
  const code = CODES[name] ?? name.toUpperCase().charCodeAt(0);
  const event = { key: name, windowsVirtualKeyCode: code, nativeVirtualKeyCode: code };
  await tab.page("Input.dispatchKeyEvent", { type: text ? "keyDown" : "rawKeyDown", text, unmodifiedText: text, ...event });
  await tab.page("Input.dispatchKeyEvent", { type: "keyUp", ...event });
}

/** Clicks the element of an expression with the mouse. */
export async function click(tab, element) {
  const [x, y] = JSON.parse(await tab.run(`(() => {
    const one = ${element};
    one.scrollIntoView({ block: "center" });
    const box = one.getBoundingClientRect();
    return JSON.stringify([box.left + box.width / 2, box.top + box.height / 2]);
  })()`));
  const event = { x, y, button: "left", clickCount: 1 };
  await tab.page("Input.dispatchMouseEvent", { type: "mousePressed", ...event });
  await tab.page("Input.dispatchMouseEvent", { type: "mouseReleased", ...event });
}

/** A picture of the page, or of the screen alone. */
export async function shot(tab, name, whole = true) {
  if (!screenshots) return;
  const { data } = await tab.page("Page.captureScreenshot", { captureBeyondViewport: whole });
  writeFileSync(join(screenshots, `${name}.png`), Buffer.from(data, "base64"));
}

export async function accessible(tab, name) {
  if (!plan.axe) return;
  await tab.page("Runtime.evaluate", { expression: readFileSync(plan.axe, "utf8") });
  const found = await tab.run(`axe.run().then((result) => JSON.stringify(result.violations.map((v) =>
    [v.id, v.nodes.map((node) => node.target.join(" ") + " " + (node.any[0]?.message ?? "")).slice(0, 3)])))`);
  check(found === "[]", `${name}: axe finds nothing (${found})`);
}

/** The message covers none of these, at any place of the page. */
export async function uncovered(tab, name, selectors) {
  const covered = await tab.run(`(() => {
    const found = [];
    const from = window.scrollY;
    for (let y = 0; y <= 300; y += 10) {
      window.scrollTo(0, y);
      const own = document.getElementById("status").getBoundingClientRect();
      if (!own.height || !document.getElementById("status").textContent) found.push("no message");
      for (const selector of ${JSON.stringify(selectors)}) {
        const other = document.querySelector(selector).getBoundingClientRect();
        if (other.height && own.left < other.right && other.left < own.right && own.top < other.bottom && other.top < own.bottom) found.push(selector + " at " + y);
      }
    }
    window.scrollTo(0, from);
    return found.join();
  })()`);
  check(covered === "", `${name}: the message covers nothing (${covered})`);
}

/** Nothing of a text ran, nothing is wider than the screen, nothing came from elsewhere, the console is silent. */
export async function clean(tab, name) {
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
