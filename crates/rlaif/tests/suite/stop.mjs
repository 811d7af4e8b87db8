// Presses the stop button of a run, as its owner would. `stop.rs` starts the server and the run.
//
//     node stop.mjs PLAN.json [SCREENSHOT_FOLDER]

import { open } from "../../../rlaif-eval/tests/browser/driver.mjs";
import { accessible, check, clean, plan, run, shot, until } from "../../../rlaif-ui/tests/browser/steps.mjs";

const press = (tab, name) => tab.run(`[...document.querySelectorAll("button")].find((one) => one.textContent === ${JSON.stringify(name)}).click()`);

await run(async () => {
  const tab = await open(plan.owner, 1280, 900, "light");
  await until(tab, "document.querySelectorAll('main input[type=checkbox]').length === 1", "the list of runs");
  check((await tab.run("document.querySelector('tbody').textContent")).includes("running"), "the run is shown as running");
  await tab.run("document.querySelector('main input[type=checkbox]').click()");
  await until(tab, "document.querySelectorAll('figure svg').length > 0", "curves of the run");
  await press(tab, `Stop ${plan.run}`);
  await until(tab, "document.querySelector('dialog[open]') !== null", "the question");
  await shot(tab, "stop-1280-light");
  await accessible(tab, "the question");
  check((await tab.run("document.activeElement.textContent")) === "Let it run", "the harmless button has the focus");
  await press(tab, "Stop the run");
  await until(tab, `document.getElementById("status").textContent === "${plan.run} ends after its step"`, "the stop");
  // The list is live.
  await until(tab, "!document.querySelector('tbody').textContent.includes('running')", "the end is shown");
  check(await tab.run(`[...document.querySelectorAll("button")].find((one) => one.textContent === "Stop ${plan.run}").hidden`), "the button is gone");
  await clean(tab, "stop");
  await tab.close();
});
