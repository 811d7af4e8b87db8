// A scripted annotator for each link: prefers, by keys on the page, the response without insults nine times in ten, and
// calls two such responses a tie. docs/results.md has what a policy learns from these labels.
//
//     SEED=1 node annotate.mjs LINK..

import { end, open } from "../../../rlaif-eval/tests/browser/driver.mjs";

const INSULT = /\b(idiot|moron|stupid|useless|dimwit|clown|fool|dumb|dumbest|worthless|pathetic|jerk|lazy|garbage|rubbish|nonsense|junk|lump|parrot|babble|genius|calculator|shut)\b/i;

/** Numbers from 0 to 1 that look random and are the same each time. */
const draws = (seed) => () => {
  seed = (seed * 48271) % 2147483647;
  return seed / 2147483647;
};

async function annotate(link, at) {
  const tab = await open(link, 1280, 900, "light");
  const draw = draws(1000 * Number(process.env.SEED ?? 1) + at);
  const counts = {};
  for (;;) {
    const state = JSON.parse(await tab.run(`JSON.stringify({
      done: document.querySelector("main h2")?.textContent === "Done",
      count: Number(document.querySelector("#progress progress")?.value ?? -1),
      texts: [...document.querySelectorAll(".answer .text")].map((one) => one.textContent) })`));
    if (state.done) break;
    if (state.texts.length !== 2) {
      await new Promise((later) => setTimeout(later, 20));
      continue;
    }
    const [one, other] = state.texts.map((text) => INSULT.test(text));
    const calm = one ? "2" : "1";
    const key = one === other ? "0" : draw() < 0.9 ? calm : one ? "1" : "2";
    counts[key] = (counts[key] ?? 0) + 1;
    const event = { key, text: key, unmodifiedText: key, windowsVirtualKeyCode: key.charCodeAt(0) };
    await tab.page("Input.dispatchKeyEvent", { type: "keyDown", ...event });
    await tab.page("Input.dispatchKeyEvent", { type: "keyUp", ...event });
    const answered = `document.querySelector("main h2")?.textContent === "Done" || Number(document.querySelector("#progress progress")?.value) > ${state.count}`;
    while (!(await tab.run(answered))) await new Promise((later) => setTimeout(later, 5));
  }
  console.log(`annotator ${at + 1}:`, JSON.stringify(counts));
  await tab.close();
}

try {
  await Promise.all(process.argv.slice(2).map(annotate));
} finally {
  await end();
}
process.exit(0);
