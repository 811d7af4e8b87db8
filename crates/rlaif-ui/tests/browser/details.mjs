// Facets and reasons by clicks, and the time on an item by a clock of the test. `labelling.rs` starts the server, and compares
// the study with what was clicked.
//
//     node details.mjs PLAN.json [SCREENSHOT_FOLDER]

import { open } from "../../../rlaif-eval/tests/browser/driver.mjs";
import { accessible, check, clean, click, key, labelling, plan, run, shot, until } from "./steps.mjs";

const number = "state.item?.number";
const done = "Number(document.querySelector('#progress progress')?.value ?? -1)";
// Far in the past, so that keys are pressed after an item is shown.
const CLOCK = `window.clock = { now: -1e7, hidden: false };
  performance.now = () => window.clock.now;
  Object.defineProperty(document, "hidden", { get: () => window.clock.hidden });`;

await run(async () => {
  for (const [at, [width, height]] of [[1280, 900], [390, 844]].entries()) {
    const label = `details ${width}`;
    const tab = await open(plan.links[at], width, height, at ? "dark" : "light");
    await tab.page("Page.addScriptToEvaluateOnNewDocument", { source: CLOCK });
    const reload = async () => {
      await tab.page("Page.reload");
      await new Promise((later) => setTimeout(later, 300));
      await until(tab, "window.clock !== undefined && document.querySelector('#answer-1') !== null", "the page after a reload");
    };
    const pass = (seconds) => tab.run(`window.clock.now += ${1000 * seconds}`);
    const hide = (hidden) => tab.run(`window.clock.hidden = ${hidden}; document.dispatchEvent(new Event("visibilitychange"))`);
    const radio = (facet, place) => `document.querySelectorAll('input[name="facet ${facet}"]')[${place}]`;
    const reason = (name) => `[...document.querySelectorAll("input[type=checkbox]")].find((one) => one.parentElement.textContent === "${name}")`;
    const better = async () => ((await tab.run("document.querySelector('.answer .text').textContent")).includes("good") ? 0 : 1);
    const answer = async () => {
      const before = await tab.run(done);
      await key(tab, String(1 + (await better())));
      await until(tab, `${done} === ${before + 1}`, "the answer");
    };
    await reload();
    const first = await tab.run(labelling(number));
    await pass(2);
    // The places of a facet: first, tie, second, neither.
    await click(tab, radio("helpful", 2 * (await better())));
    await click(tab, radio("honest", 0));
    await click(tab, radio("honest", 1));
    await click(tab, radio("harmless", 3));
    for (const name of ["clearer", "safer", "safer"]) await click(tab, reason(name));
    await until(tab, labelling("drafts.timer === null && !drafts.work"), "the draft is saved");
    await shot(tab, `details-${width}`);
    await accessible(tab, label);
    await reload();
    const checked = await tab.run("[...document.querySelectorAll('main input:checked')].map((one) => one.name || one.parentElement.textContent).join()");
    check(checked === "facet helpful,facet honest,facet harmless,clearer", `${label}: clicks are there after a reload (${checked})`);
    check((await tab.run(labelling("state.seconds"))) === 2, `${label}: the time is there after a reload (${await tab.run(labelling("state.seconds"))})`);
    await pass(1.5);
    await hide(true);
    await pass(60);
    await hide(false);
    await pass(0.5);
    await answer();
    await pass(0.3);
    await key(tab, "u");
    await until(tab, labelling(`${number} === ${first}`), "the undo");
    await pass(1);
    await answer();
    await pass(0.7);
    await answer();
    await clean(tab, label);
    await tab.close();
  }
});
