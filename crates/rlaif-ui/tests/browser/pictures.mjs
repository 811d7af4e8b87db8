// Takes the pictures of docs/people.md. `pictures.rs` starts the server.
//
//     node pictures.mjs PLAN.json FOLDER

import { open } from "../../../rlaif-eval/tests/browser/driver.mjs";
import { clean, key, plan, run, shot, until } from "./steps.mjs";

const view = (tab, name) => tab.run(`[...document.querySelectorAll('nav button')].find((one) => one.textContent === '${name}').click()`);

await run(async () => {
  for (const [name, width, height, scheme] of [["label", 1000, 640, "light"], ["phone", 390, 760, "dark"]]) {
    const tab = await open(plan.annotator, width, height, scheme);
    await until(tab, "document.querySelector('#answer-1') !== null", "the first item");
    await tab.run("document.querySelectorAll('main > details').forEach((one) => { one.open = false; })");
    await shot(tab, name, false);
    await clean(tab, name);
    await tab.close();
  }
  const tab = await open(plan.owner, 1000, 640, "light");
  await until(tab, "document.querySelectorAll('nav button').length === 3", "the views");
  await view(tab, "Runs");
  await until(tab, "document.querySelectorAll('main input[type=checkbox]').length === 2", "the list of runs");
  await tab.run("document.querySelectorAll('main input[type=checkbox]').forEach((one) => one.click())");
  await until(tab, "document.querySelectorAll('figure svg polyline').length === 8", "curves of two runs");
  await shot(tab, "runs", false);
  await view(tab, "Talk");
  await until(tab, "document.activeElement.id === 'talk-prompt'", "the prompt has the focus");
  for (const letter of "What should I write to my brother?") await key(tab, letter);
  await tab.run("document.getElementById('length').value = 14; document.querySelector('form').requestSubmit()");
  await until(tab, "document.getElementById('status').textContent === 'All have answered'", "the end");
  await tab.run("document.getElementById('status').textContent = ''; window.scrollTo(0, 90)");
  await shot(tab, "talk", false);
  await clean(tab, "owner");
  await tab.close();
});
