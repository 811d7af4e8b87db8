// A headless Chromium over the DevTools protocol, which is spoken through a pipe. Needs Node 20 or newer and a
// Chromium (`CHROMIUM` names it if it is not called `chromium`); nothing is installed.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const profile = mkdtempSync(join(tmpdir(), "rlaif-browser-"));
const browser = spawn(
  process.env.CHROMIUM ?? "chromium",
  ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
    "--disable-background-networking", `--user-data-dir=${profile}`, "about:blank"],
  { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] },
);
const [toBrowser, fromBrowser] = [browser.stdio[3], browser.stdio[4]];

let lastId = 0;
const waiting = new Map();
const events = [];
let buffer = "";
fromBrowser.setEncoding("utf8");
fromBrowser.on("data", (text) => {
  buffer += text;
  for (let end; (end = buffer.indexOf("\0")) >= 0; buffer = buffer.slice(end + 1)) {
    const message = JSON.parse(buffer.slice(0, end));
    if (message.id) {
      const { resolve, reject } = waiting.get(message.id);
      waiting.delete(message.id);
      message.error ? reject(new Error(message.error.message)) : resolve(message.result);
    } else {
      events.push(message);
    }
  }
});
const send = (method, params = {}, sessionId = undefined) =>
  new Promise((resolve, reject) => {
    const id = ++lastId;
    waiting.set(id, { resolve, reject });
    toBrowser.write(JSON.stringify({ id, method, params, sessionId }) + "\0");
  });


/** A tab of a width and a colour scheme, with `url` loaded. */
export async function open(url, width, height, scheme) {
  const { targetId } = await send("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
  const page = (method, params) => send(method, params, sessionId);
  for (const domain of ["Page", "Runtime", "Network", "Log"]) await page(`${domain}.enable`);
  await page("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: width < 600 });
  await page("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
  await page("Page.navigate", { url });
  for (let tries = 0; tries < 100; tries += 1) {
    if (events.some((e) => e.sessionId === sessionId && e.method === "Page.loadEventFired")) break;
    await new Promise((done) => setTimeout(done, 100));
  }
  const run = async (expression) => {
    const { result, exceptionDetails } = await page("Runtime.evaluate", { expression, returnByValue: true, awaitPromise: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  };
  const own = (method) => events.filter((e) => e.sessionId === sessionId && e.method === method).map((e) => e.params);
  return { page, run, own, url, close: () => send("Target.closeTarget", { targetId }) };
}

/** Ends the browser. */
export async function end() {
  const gone = new Promise((done) => browser.once("exit", done));
  browser.kill();
  await gone;
  // The browser's other processes end a little later, and write into the profile until then.
  for (let tries = 0; tries < 50; tries += 1) {
    try {
      rmSync(profile, { recursive: true, force: true });
      return;
    } catch {
      await new Promise((later) => setTimeout(later, 100));
    }
  }
}

/** Ends the process if the browser does not answer in five minutes. */
const deadline = setTimeout(() => {
  console.error("FAIL the browser did not answer in five minutes");
  browser.kill("SIGKILL");
  process.exit(1);
}, 300_000);
deadline.unref();
