// Drafts of one annotator while the server does not answer, before an undo, and while an answer is edited. `labelling.rs`
// starts the server, and compares the study with what was typed.
//
//     node drafts.mjs PLAN.json [SCREENSHOT_FOLDER]

import { open } from "../../../rlaif-eval/tests/browser/driver.mjs";
import { accessible, check, clean, key, labelling, plan, run, shot, uncovered, until } from "./steps.mjs";

const number = "state.item?.number";
const status = "document.getElementById('status').textContent";
const note = "document.getElementById('note').value";
const asks = "document.querySelector('dialog[open]') !== null";

await run(async () => {
  const tab = await open(plan.link, 390, 844, "light");
  const write = async (text) => {
    await key(tab, "n");
    await tab.run("document.activeElement.setSelectionRange(1000, 1000)");
    for (const letter of text) await key(tab, letter);
    await key(tab, "Escape");
  };
  const next = async (before) => until(tab, labelling(`${number} !== ${before} && document.querySelector('#answer-1') !== null`), "another item");
  await until(tab, "document.querySelector('#answer-1') !== null", "the first item");
  await tab.run("{ const real = window.fetch; window.lost = 0; window.fetch = (...all) => (window.offline ? Promise.reject(new TypeError('offline')) : String(all[0]) === '/api/undo' && window.lost-- > 0 ? real(...all).then(() => { throw new TypeError('lost'); }) : real(...all)); }");
  const first = await tab.run(labelling(number));
  await key(tab, "1");
  await next(first);
  const second = await tab.run(labelling(number));

  await tab.run("window.offline = true");
  await write("ab");
  await until(tab, `/^Not saved yet/.test(${status})`, "the page says that the draft is not saved");
  await accessible(tab, "a draft that is not saved");
  await uncovered(tab, "a draft that is not saved", ["#progress", ".bar h1", ".verdicts"]);
  await shot(tab, "not-saved-390-light", false);
  await key(tab, "u");
  await key(tab, "2");
  await new Promise((later) => setTimeout(later, 500));
  check((await tab.run(labelling(number))) === second, "the undo waits for the draft");
  await tab.run("window.offline = false");
  await until(tab, labelling(`${number} === ${first}`), "the undo");
  await uncovered(tab, "an undo", ["#progress", ".bar h1", ".verdicts"]);
  await key(tab, "1");
  await until(tab, labelling(`${number} === ${second}`), "the second item again");
  check((await tab.run(note)) === "ab", `the note is there after the undo (${await tab.run(note)})`);

  // Sooner than a draft is saved by itself.
  await write("c");
  await key(tab, "u");
  await until(tab, labelling(`${number} === ${first}`), "the undo at once");
  await key(tab, "1");
  await until(tab, labelling(`${number} === ${second}`), "the second item once more");
  check((await tab.run(note)) === "abc", `the undo saves what was just written (${await tab.run(note)})`);

  // The replies of an undo are lost: the same request again takes nothing more back.
  await key(tab, "1");
  await next(second);
  await tab.run("window.lost = 3");
  await key(tab, "u");
  await until(tab, `/^Not undone yet/.test(${status})`, "the page says that the undo has no reply");
  await until(tab, labelling(`${number} === ${second}`), "the undo after lost replies");
  const left = await tab.run("document.querySelector('#progress progress').value");
  check(left === 1, `one answer is undone (${left} left)`);

  const edit = (at) => tab.run(`document.querySelectorAll(".edit")[${at}].click()`);
  const shown = async () => JSON.parse(await tab.run("JSON.stringify([...document.querySelectorAll('.answer textarea')].map((one) => (one.hidden ? null : one.value.slice(-2))))"));
  await edit(0);
  check(!(await tab.run(asks)), "an edit begins without a question");
  await tab.run("document.activeElement.setSelectionRange(1000, 1000)");
  for (const letter of "xy") await key(tab, letter);
  for (const at of [0, 1]) {
    await edit(at);
    await until(tab, asks, "a question before the edit is dropped");
    if (at) await key(tab, "Enter");
    else await key(tab, "Escape");
    await until(tab, `!(${asks})`, "the answer to the question");
    const areas = await shown();
    check(areas[0] === "xy" && areas[1] === null, `the edit is kept (${areas})`);
  }
  await edit(1);
  await until(tab, asks, "the question");
  await accessible(tab, "a question before the edit is dropped");
  await tab.run("document.querySelector('dialog .main').click()");
  const areas = await shown();
  check(areas[0] === null && areas[1] !== null, `the other answer is edited (${areas})`);
  for (const letter of "z") await key(tab, letter);
  await key(tab, "Escape");
  await key(tab, "2");
  await next(second);
  await clean(tab, "drafts");
  await tab.close();
});
