// Labels pairs as a person would, by keys alone: at desktop and phone width, in light and dark, with a reload in
// the middle and two annotators at once. `labelling.rs` starts the server, and compares the study with what was typed.
//
//     node label.mjs PLAN.json [SCREENSHOT_FOLDER]

import { open } from "../../../rlaif-eval/tests/browser/driver.mjs";
import { accessible, check, clean, key, plan, run, shot, until } from "./steps.mjs";

const { owner, annotators, forged } = plan;

const done = "Number(document.querySelector('#progress progress')?.value ?? -1)";
const ready = "document.querySelector('#answer-1') !== null";

/** The key of the better answer: the text says which one it is. */
const better = async (tab) => ((await tab.run("document.querySelector('.answer .text').textContent")).includes("good") ? "1" : "2");

/** One answer: every third with a strength, a facet, a note or another key, then the key. */
async function answer(tab, turn) {
  const before = await tab.run(done);
  const choice = await better(tab);
  if (turn % 7 === 3) {
    await key(tab, "n");
    for (const letter of "ok") await key(tab, letter);
    await key(tab, "Escape");
  }
  if (turn % 7 === 5) {
    // A strength by keyboard, then Enter.
    const at = choice === "1" ? 1 : 5;
    await tab.run(`document.querySelectorAll("input[name=strength]")[${at}].focus()`);
    await key(tab, " ");
    await key(tab, "Enter");
  } else {
    await key(tab, choice);
  }
  await until(tab, `${done} === ${before + 1}`, `answer ${turn} is counted`);
}

async function annotator({ link, name, width, height, scheme, items }) {
  const tab = await open(link, width, height, scheme);
  const label = `${name} ${width} ${scheme}`;
  await until(tab, ready, "the first item");
  await shot(tab, `label-${width}-${scheme}`);
  await accessible(tab, label);
  const boxes = JSON.parse(await tab.run("JSON.stringify([...document.querySelectorAll('.answer')].map((one) => one.getBoundingClientRect()).map(({ top, height }) => [top, height]))"));
  check(width < 600 || String(boxes[0]) === String(boxes[1]), `${label}: both answers stand side by side in equal height (${boxes})`);
  let folds = 0;
  return {
    label,
    tab,
    async step(turn) {
      folds += await tab.run("document.querySelectorAll('.answers details.fold:not([open])').length");
      if (turn === 4) {
        await key(tab, "?");
        await until(tab, "document.querySelector('dialog[open]') !== null", "the help");
        const shown = await tab.run("document.querySelector('dialog').innerText");
        check(/1\s+the first answer is better/.test(shown), `${label}: the help names the keys (${shown})`);
        await shot(tab, `help-${width}-${scheme}`);
        await accessible(tab, `${label}, help`);
        await key(tab, "Escape");
        await until(tab, "document.querySelector('dialog') === null", "the help is closed");
      }
      if (turn === 6) {
        // Undone and answered again.
        const before = await tab.run(done);
        await key(tab, "u");
        await until(tab, `${done} === ${before - 1}`, "the undo");
        await answer(tab, 0);
      }
      if (turn === Math.floor(items / 2)) {
        await key(tab, "n");
        for (const letter of "half") await key(tab, letter);
        await key(tab, "Escape");
        await new Promise((later) => setTimeout(later, 1500));
        await tab.page("Page.reload");
        await new Promise((later) => setTimeout(later, 300));
        await until(tab, ready, "the page after a reload");
        const note = await tab.run("document.getElementById('note').value");
        check(note === "half", `${label}: the note is there after a reload (${note})`);
        check((await tab.run(done)) === turn, `${label}: the answers are there after a reload`);
      }
      await answer(tab, turn);
    },
    async finish() {
      await until(tab, "document.querySelector('main h2').textContent === 'Done'", "the end");
      check(folds > 0, `${label}: toxic answers are folded (${folds})`);
      await accessible(tab, `${label}, at the end`);
      await clean(tab, label);
      await tab.close();
    },
  };
}

await run(async () => {
  // Both at once: their answers take turns.
  const people = [];
  for (const one of annotators) people.push(await annotator(one));
  for (let turn = 0; turn < annotators[0].items; turn += 1) {
    await Promise.all(people.map((one) => one.step(turn)));
  }
  for (const one of people) await one.finish();

  const tab = await open(owner, 1280, 900, "light");
  await until(tab, "document.querySelectorAll('table').length >= 3", "agreement");
  const shown = await tab.run("document.body.innerText");
  check(annotators.every(({ name }) => shown.includes(name)), "owner: every annotator is listed");
  check(shown.includes("100.0 %"), "owner: both agree");
  await shot(tab, "owner-1280-light");
  await accessible(tab, "owner");
  await tab.run("[...document.querySelectorAll('nav button')].find((one) => one.textContent === 'Runs').click()");
  await until(tab, "document.querySelectorAll('main input[type=checkbox]').length === 9", "the list of runs");
  await tab.run("[...document.querySelectorAll('main input[type=checkbox]')].slice(0, 2).forEach((one) => one.click())");
  await until(tab, "document.querySelectorAll('figure svg polyline').length === 4", "curves of two runs");
  check((await tab.run("document.querySelectorAll('figure').length")) === 2, "owner: two runs share a figure for each number");
  const legend = JSON.parse(await tab.run("JSON.stringify([...document.querySelectorAll('.legend li')].map((one) => [one.textContent, getComputedStyle(one.querySelector('polyline')).stroke]))"));
  check(legend[0][0] === "run-1" && legend[1][0] === "run-2" && legend[0][1] !== legend[1][1], `owner: the legend names the lines (${legend})`);
  const strokes = JSON.parse(await tab.run("JSON.stringify([...document.querySelectorAll('figure:first-of-type polyline')].map((one) => getComputedStyle(one).stroke))"));
  check(String(strokes) === String(legend.map((one) => one[1])), `owner: lines have the colours of the legend (${strokes})`);
  const drawn = await tab.run("document.querySelector('figure svg').getBoundingClientRect().height");
  check(drawn > 50, `owner: curves are drawn (${drawn})`);
  await shot(tab, "runs-1280-light");
  await accessible(tab, "runs");
  await tab.run("[...document.querySelectorAll('main input[type=checkbox]')].slice(2).forEach((one) => one.click())");
  await until(tab, "document.querySelectorAll('figure svg polyline').length === 18", "curves of nine runs");
  await until(tab, "document.querySelectorAll('main details pre').length === 9", "run files of nine runs");
  const kinds = await tab.run("new Set([...document.querySelectorAll('.legend polyline')].map((one) => getComputedStyle(one).stroke + getComputedStyle(one).strokeDasharray)).size");
  check(kinds === 9, `owner: nine lines can be told apart (${kinds})`);
  await shot(tab, "runs-nine-1280-light");
  await clean(tab, "owner");
  await tab.close();

  const stranger = await open(forged, 1280, 900, "dark");
  await until(stranger, "document.querySelector('main h2')?.textContent === 'Not available'", "a forged token");
  await accessible(stranger, "a forged token");
  check(!(await stranger.run("document.body.innerText")).includes("good"), "a forged token shows no item");
  await stranger.close();
});
