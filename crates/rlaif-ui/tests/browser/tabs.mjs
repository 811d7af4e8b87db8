// Two tabs of one annotator on the same item: the later answer is not stored, and its tab says so. `labelling.rs` starts the
// server, and compares the study with what was typed.
//
//     node tabs.mjs PLAN.json [SCREENSHOT_FOLDER]

import { open } from "../../../rlaif-eval/tests/browser/driver.mjs";
import { accessible, check, clean, key, labelling, plan, run, shot, until } from "./steps.mjs";

const done = "Number(document.querySelector('#progress progress')?.value ?? -1)";
const ready = "document.querySelector('#answer-1') !== null";
const number = "state.item?.number";

await run(async () => {
  const tabs = [await open(plan.link, 1280, 900, "light"), await open(plan.link, 390, 844, "dark")];
  for (const tab of tabs) await until(tab, ready, "the first item");
  const [first, second] = tabs;
  const item = await first.run(labelling(number));
  check(item === await second.run(labelling(number)), "both tabs show the same item");
  await key(first, "1");
  await until(first, `${done} === 1`, "the first tab's answer");
  await key(second, "n");
  for (const letter of "kept") await key(second, letter);
  await key(second, "Escape");
  await key(second, "2");
  await until(second, "document.querySelector('dialog[open]') !== null", "the second tab tells");
  const said = await second.run("document.querySelector('dialog').innerText");
  check(/answered elsewhere/.test(said) && /2 is better/.test(said) && /not stored/.test(said), `the second tab says what was not stored (${said})`);
  const note = await second.run("document.querySelector('dialog textarea').value");
  check(note === "kept", `the note can be copied (${note})`);
  check((await second.run(labelling(number))) === item, "the item stays until the message is closed");
  await accessible(second, "not stored");
  await shot(second, "not-stored-390-dark");
  // An answer by mistake, which the message must not pass on.
  await key(second, "1");
  check((await second.run(labelling(number))) === item, "keys are not answers while the message is open");
  await key(second, "Escape");
  await until(second, labelling(`${number} === ${await first.run(labelling(number))}`), "the next item");
  const status = await second.run("document.getElementById('status').textContent");
  check(!/saved/i.test(status), `nothing says that the answer was saved (${status})`);

  // The page is left while an answer is on its way to a server that does not answer, and the other tab answers.
  const next = await first.run(labelling(number));
  await second.run("window.fetch = () => Promise.reject(new TypeError('offline'))");
  await key(second, "2");
  await until(second, "/Not saved yet/.test(document.getElementById('status').textContent)", "no connection");
  await key(first, "1");
  await until(first, `${done} === 2`, "the first tab's second answer");
  await second.page("Page.reload");
  await until(second, "document.querySelector('dialog[open]') !== null", "the second tab tells after a reload");
  await key(second, "Enter");
  await until(second, labelling(`${number} === ${await first.run(labelling(number))}`), "the item after the reload");
  check((await second.run(labelling(number))) !== next, "the second tab has the next item");
  await clean(first, "the first tab");
  for (const tab of tabs) await tab.close();
});
