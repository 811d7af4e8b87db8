// The owner's page on a phone: names of runs and metrics with hidden characters, and messages that cover nothing.
// `labelling.rs` starts the server.
//
//     node names.mjs PLAN.json [SCREENSHOT_FOLDER]

import { open } from "../../../rlaif-eval/tests/browser/driver.mjs";
import { accessible, check, clean, plan, run, shot, uncovered, until } from "./steps.mjs";

await run(async () => {
  const tab = await open(plan.owner, 390, 844, "light");
  const view = (name) => tab.run(`[...document.querySelectorAll('nav button')].find((one) => one.textContent === '${name}').click()`);
  await until(tab, "document.querySelectorAll('nav button').length === 2 && document.querySelectorAll('table').length >= 2", "the views");
  // The study on a phone: no button stands over the content, and no word of a table is broken.
  await shot(tab, "owner-390-light");
  await accessible(tab, "the study on a phone");
  const fixed = await tab.run("[...document.querySelectorAll('main *')].filter((one) => ['sticky', 'fixed'].includes(getComputedStyle(one).position)).length");
  check(fixed === 0, `the study: nothing stands over the content (${fixed})`);
  const broken = await tab.run(`[...document.querySelectorAll('.wide td:nth-child(2), .wide th')].filter((one) => {
    const range = document.createRange();
    range.selectNodeContents(one);
    return !one.textContent.includes(" ") && new Set([...range.getClientRects()].map((box) => box.top)).size > 1;
  }).map((one) => one.textContent).join()`);
  check(broken === "", `the study: words of tables are whole (${broken})`);
  await view("Runs");
  await until(tab, "document.querySelectorAll('main input[type=checkbox]').length === 1", "the list of runs");
  await tab.run("document.querySelector('main input[type=checkbox]').click()");
  await until(tab, "document.querySelector('figure svg polyline') !== null && document.querySelector('.warning') !== null", "the run");
  for (const place of ["td:nth-child(2)", "h3", "figcaption", "figcaption small", "section .choose", ".warning"]) {
    const shown = await tab.run(`document.querySelector("main ${place}").textContent`);
    check(shown.includes("U+202E"), `${place} shows the code (${shown})`);
  }
  const labels = JSON.parse(await tab.run("JSON.stringify([...document.querySelectorAll('[aria-label]')].map((one) => one.getAttribute('aria-label')))"));
  check(labels.some((label) => label.includes("U+202E")), "labels have the code");
  check(!labels.some((label) => /[\u202a-\u202e]/.test(label)), "no label has the character");
  const say = (message) => tab.run(`import("/page.js").then((page) => page.say(${message}))`);
  for (const bad of [true, false]) {
    await say(`"A message that is long enough for two lines of a phone, \\u202e and names a run", ${bad}`);
    await uncovered(tab, `${bad ? "a failure" : "a success"} on the owner's page`, [".bar h1", "nav"]);
  }
  check((await tab.run("document.getElementById('status').textContent")).includes("U+202E"), "messages show the code");
  await say("'A message that stays', true");
  await accessible(tab, "a message that stays");
  await shot(tab, "message-390-light", false);
  await view("Study");
  await until(tab, "document.getElementById('status').textContent === ''", "another view clears the message");
  await clean(tab, "names");
  await tab.close();
});
