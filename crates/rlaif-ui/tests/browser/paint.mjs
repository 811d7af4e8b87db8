// Time of the first paint, and of the first content, of a study and a folder of runs. `pictures.rs` starts the server.
//
//     node paint.mjs PLAN.json

import { open } from "../../../rlaif-eval/tests/browser/driver.mjs";
import { plan, run, until } from "./steps.mjs";

const median = (numbers) => numbers.toSorted((a, b) => a - b)[numbers.length >> 1];

await run(async () => {
  for (const [name, link, ready] of [
    ["item", plan.annotator, "document.querySelector('#answer-1') !== null"],
    ["runs", plan.owner, "document.querySelectorAll('main input[type=checkbox]').length === 100"],
  ]) {
    const [paints, contents] = [[], []];
    for (let turn = 0; turn < 7; turn += 1) {
      const tab = await open("about:blank", 1280, 900, "light");
      const watch = `(() => { const look = () => (${ready}) ? requestAnimationFrame(() => { window.shown = performance.now(); }) : setTimeout(look, 2); look(); })()`;
      await tab.page("Page.addScriptToEvaluateOnNewDocument", { source: watch });
      await tab.page("Page.navigate", { url: link });
      await until(tab, "window.shown !== undefined", "the content");
      paints.push(await tab.run("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN"));
      contents.push(await tab.run("window.shown"));
      await tab.close();
    }
    console.log(`${name}: first paint ${median(paints).toFixed(0)} ms, content ${median(contents).toFixed(0)} ms`);
  }
});
