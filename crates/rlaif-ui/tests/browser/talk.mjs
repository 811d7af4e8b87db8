// Talks to two models by keys alone: at desktop and phone width, in light and dark. `talk.rs` starts the server, and
// compares the requests.
//
//     node talk.mjs PLAN.json [SCREENSHOT_FOLDER]

import { open } from "../../../rlaif-eval/tests/browser/driver.mjs";
import { accessible, check, clean, key, plan, run, shot, until } from "./steps.mjs";

const write = async (tab, text) => {
  for (const letter of text) await key(tab, letter);
};

/** Replaces the value of a number. */
const set = (tab, id, value) => tab.run(`(() => { const input = document.getElementById("${id}"); input.value = "${value}"; })()`);

const line = (at) => `document.querySelectorAll(".answer > .note")[${at}].textContent`;

async function talk(width, height, scheme) {
  const label = `talk ${width} ${scheme}`;
  const tab = await open(plan.owner, width, height, scheme);
  await until(tab, "document.querySelectorAll('nav button').length === 2", "the views");
  await tab.run("[...document.querySelectorAll('nav button')].find((one) => one.textContent === 'Talk').click()");
  await until(tab, "document.activeElement.id === 'talk-prompt'", "the prompt has the focus");
  await accessible(tab, `${label}, before`);
  await write(tab, "What do you think?");
  await set(tab, "seed", 7);
  await set(tab, "temperature", 0.5);
  await set(tab, "length", 33);
  await tab.page("Input.dispatchKeyEvent", { type: "rawKeyDown", key: "Enter", windowsVirtualKeyCode: 13, modifiers: 2 });
  await tab.page("Input.dispatchKeyEvent", { type: "keyUp", key: "Enter", windowsVirtualKeyCode: 13, modifiers: 2 });
  await until(tab, "[...document.querySelectorAll('.talk')].every((one) => one.childElementCount > 2)", "tokens stream");
  const early = await tab.run("document.querySelector('.talk').childElementCount");
  check(early < 33, `${label}: tokens are shown as they come (${early})`);
  await until(tab, `${line(0)}.includes("politeness") || ${line(0)}.includes("·")`, "the score");
  await until(tab, "document.getElementById('status').textContent === 'All have answered'", "the end");
  const lines = [await tab.run(line(0)), await tab.run(line(1))];
  check(lines[0].includes("33 tokens (length)") && lines[0].includes("-1.500"), `${label}: ${lines[0]}`);
  check(lines[1].includes("1.250"), `${label}: ${lines[1]}`);
  const shades = await tab.run("[...new Set([...document.querySelectorAll('.answer .token')].map((one) => one.className))].sort().join()");
  check(shades === "token p0,token p1,token p2,token p3,token p4", `${label}: shades (${shades})`);
  const shown = await tab.run("document.querySelector('.talk').textContent");
  check(shown.includes("<script>") && shown.includes("U+202E"), `${label}: texts are texts (${shown})`);
  await shot(tab, `talk-${width}-${scheme}`);
  await accessible(tab, label);
  await tab.run("document.querySelector('.answer details summary').click()");
  await until(tab, "document.querySelectorAll('.answer tbody tr').length === 33", "the table of tokens");
  const row = await tab.run("document.querySelector('.answer tbody tr').textContent");
  check(row.startsWith("That30.0 %"), `${label}: the first token (${row})`);
  await accessible(tab, `${label}, tokens`);
  // A long response is stopped.
  await set(tab, "length", 900);
  await tab.run("document.querySelector('form').requestSubmit()");
  await until(tab, "document.querySelector('.talk').childElementCount > 3 && document.querySelector('.talk').childElementCount < 30", "the second answer");
  await tab.run("[...document.querySelectorAll('form button')].find((one) => one.textContent === 'Stop').click()");
  await until(tab, `${line(0)}.includes("stopped") && ${line(1)}.includes("stopped")`, "the stop");
  await set(tab, "length", 3);
  await tab.run("document.querySelector('form').requestSubmit()");
  await until(tab, `${line(1)}.includes("3 tokens (length)")`, "the third answer");
  await clean(tab, label);
  await tab.close();
}

await run(async () => {
  await talk(1280, 900, "light");
  await talk(390, 844, "dark");
});
