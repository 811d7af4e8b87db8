// Ranks, edits and referees by keys alone. `roles.rs` starts the server, and compares the study with what was typed.
//
//     node roles.mjs PLAN.json [SCREENSHOT_FOLDER]

import { open } from "../../../rlaif-eval/tests/browser/driver.mjs";
import { accessible, check, clean, key, plan, run, shot, until } from "./steps.mjs";

const done = "Number(document.querySelector('#progress progress')?.value ?? -1)";
const ready = "document.querySelector('#answer-1') !== null";
const texts = async (tab) => JSON.parse(await tab.run("JSON.stringify([...document.querySelectorAll('.answer .text')].map((one) => one.textContent))"));
const place = (all, word) => String(all.findIndex((one) => one.includes(word)) + 1);

async function rank(tab, label) {
  const all = await texts(tab);
  const [best, middle, worst] = ["best", "middling", "worst"].map((word) => place(all, word));
  // The wrong one first, and undone.
  await key(tab, worst);
  await until(tab, "document.querySelectorAll('.answer.chosen').length === 1", "a rank");
  await key(tab, "Enter");
  await until(tab, "document.getElementById('status').classList.contains('bad')", "an incomplete ranking is not sent");
  await key(tab, "u");
  await until(tab, "document.querySelectorAll('.answer.chosen').length === 0", "the rank is undone");
  for (const number of [best, middle, worst]) await key(tab, number);
  await until(tab, "document.querySelectorAll('.answer.chosen').length === 3", "the ranking");
  await shot(tab, `ranking-${label}`);
  await accessible(tab, `${label}, ranking`);
  await key(tab, "Enter");
}

/** Edits the best answer into a better one. */
async function edit(tab, label) {
  const at = place(await texts(tab), "best") - 1;
  await tab.run(`document.querySelectorAll(".edit")[${at}].focus()`);
  await key(tab, "Enter");
  await until(tab, "document.activeElement.tagName === 'TEXTAREA'", "the text of the answer");
  await tab.run("document.activeElement.setSelectionRange(1000, 1000)");
  for (const letter of ", and better") await key(tab, letter);
  await shot(tab, `edit-${label}`);
  await accessible(tab, `${label}, editing`);
  await key(tab, "Escape");
}

async function annotate(link, label, { edits, disagrees }) {
  const tab = await open(link, 1280, 900, "light");
  await until(tab, ready, "the first item");
  for (let turn = 0; turn < 4; turn += 1) {
    const before = await tab.run(done);
    const all = await texts(tab);
    if (all.length === 3) {
      await rank(tab, label);
    } else {
      const second = await tab.run("document.querySelector('.prompt .text').textContent.includes('2')");
      if (second && edits) await edit(tab, label);
      if (second && disagrees) {
        await key(tab, "n");
        for (const letter of "my reason") await key(tab, letter);
        await key(tab, "Escape");
      }
      await key(tab, place(await texts(tab), second && disagrees ? "worst" : "best"));
    }
    await until(tab, `${done} === ${before + 1}`, `answer ${turn} is counted`);
  }
  await until(tab, "document.querySelector('main h2').textContent === 'Done'", "the end");
  await clean(tab, label);
  await tab.close();
}

await run(async () => {
  await annotate(plan.ann, "ann", { edits: true, disagrees: false });
  await annotate(plan.bob, "bob", { edits: false, disagrees: true });
  const tab = await open(plan.referee, 390, 844, "dark");
  await until(tab, ready, "the item on which they disagree");
  const shown = await tab.run("document.querySelector('.others').textContent");
  check(shown.includes("my reason"), `referee: notes are shown (${shown})`);
  check(!shown.includes("ann") && !shown.includes("bob"), "referee: names are not shown");
  const best = place(await texts(tab), "best");
  check(shown.includes(`${best} is better`) && shown.includes(`${3 - best} is better: my reason`), `referee: votes are words (${shown})`);
  check((await tab.run("document.querySelectorAll('.others li').length")) === 2, "referee: both votes are shown");
  await shot(tab, "referee-390-dark");
  await accessible(tab, "referee");
  await key(tab, place(await texts(tab), "best"));
  await until(tab, "document.querySelector('main h2').textContent === 'Done'", "the end");
  await clean(tab, "referee");
  await tab.close();
});
