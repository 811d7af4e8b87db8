// Models side by side on one prompt: the same random numbers, tokens as they come, scores.

import { ask, digits, eachEvent, el, main, percent, piecesOf, say, session, table, text, unwatch, watch } from "./page.js";

/** Classes of probabilities, from those that need no mark. */
const shade = (probability) => (probability >= 0.5 ? "p0" : probability >= 0.2 ? "p1" : probability >= 0.05 ? "p2" : probability >= 0.01 ? "p3" : "p4");

/** Tokens of an event: text, log-probability and the most probable ones. */
function tokensOf(choice) {
  const { logprobs } = choice;
  if (!logprobs) return [];
  if (logprobs.content) return logprobs.content.map((one) => ({ text: one.token, p: Math.exp(one.logprob), top: one.top_logprobs.map((top) => [top.token, Math.exp(top.logprob)]) }));
  return logprobs.tokens.map((one, at) => ({ text: one, p: Math.exp(logprobs.token_logprobs[at]),
    top: Object.entries(logprobs.top_logprobs[at]).map(([other, logprob]) => [other, Math.exp(logprob)]) }));
}

/** The column of a model. */
function column(model) {
  const own = { model, tokens: [], answer: "", end: null };
  own.body = el("div", { class: "scroll talk", tabindex: "0", role: "group", "aria-label": `text of ${model.name}` });
  own.line = el("p", { class: "note" }, "–");
  own.table = el("div");
  own.details = el("details", { ontoggle: () => showTokens(own) }, el("summary", {}, "Tokens"), own.table);
  own.box = el("section", { class: "answer", "aria-label": model.name }, el("h2", {}, model.name), own.body, own.line, own.details);
  return own;
}

/** The table of tokens, which is made on demand: for readers who do not see colours. */
function showTokens(own) {
  if (!own.details.open) return;
  const visible = (token) => text(piecesOf(token.replaceAll("\n", "↵")));
  own.table.replaceChildren(table(`tokens of ${own.model.name}`, ["token", "probability", "most probable"], own.tokens.map((token) =>
    [visible(token.text), percent(token.p), el("span", { class: "alternatives" }, token.top.map(([other, p], at) => [at ? " · " : "", visible(other), ` ${percent(p)}`]).flat())])));
}

function addTokens(own, choice) {
  for (const token of tokensOf(choice)) {
    own.tokens.push(token);
    own.body.append(el("span", { class: `token ${shade(token.p)}`, title: percent(token.p) }, text(piecesOf(token.text))));
  }
  own.answer += choice.text ?? choice.delta?.content ?? "";
  own.end = choice.finish_reason ?? own.end;
}

async function converse(own, asked, signal) {
  const { prompt, system, chat, ...settings } = asked;
  const messages = [...(system ? [{ role: "system", content: system }] : []), { role: "user", content: prompt }];
  const body = chat ? { messages, logprobs: true, top_logprobs: 5 } : { prompt, logprobs: 5 };
  own.tokens = [];
  own.answer = "";
  own.body.replaceChildren();
  own.line.textContent = "waits";
  const reply = await ask("POST", chat ? "/v1/chat/completions" : "/v1/completions", { model: own.model.name, stream: true, ...settings, ...body }, { signal });
  await eachEvent(reply, (event) => {
    if (event.error) throw new Error(event.error.message);
    event.choices.forEach((choice) => addTokens(own, choice));
    own.line.textContent = `${own.tokens.length} tokens`;
  });
  const log = own.tokens.reduce((sum, token) => sum + Math.log(token.p), 0);
  own.line.textContent = `${own.tokens.length} tokens (${own.end}), log-probability ${log.toFixed(1)}, ${(log / Math.max(own.tokens.length, 1)).toFixed(2)} per token`;
  showTokens(own);
  if (!session.me.rewards.length) return;
  const scores = await (await ask("POST", "/api/score", { prompt, response: own.answer }, { signal })).json();
  own.line.append(...scores.map((score) => el("span", { class: "score" }, ` · ${score.name} `, el("b", {}, score.score === null ? "no verdict" : digits(score.score)))));
}

function numberField(id, name, value, attributes) {
  const input = el("input", { type: "number", id, value, required: true, ...attributes });
  return [el("label", {}, name, " ", input), input];
}

/** The page on which models answer. */
export async function talk() {
  const { models } = session.me;
  const columns = models.map(column);
  const prompt = el("textarea", { id: "talk-prompt", rows: "4", required: true });
  const system = el("textarea", { rows: "2" });
  const chat = el("input", { type: "checkbox", checked: models.every((model) => model.chat), disabled: !models.every((model) => model.chat) });
  const [temperatureLabel, temperature] = numberField("temperature", "Temperature", "1", { min: "0", max: "100", step: "any" });
  const [lengthLabel, length] = numberField("length", "Longest response, in tokens", "128", { min: "1", step: "1" });
  const [seedLabel, seed] = numberField("seed", "Seed", "1", { min: "0", step: "1" });
  const send = el("button", { class: "choose main", "aria-keyshortcuts": "Control+Enter" }, "Ask ", el("kbd", { "aria-hidden": "true" }, "Ctrl Enter"));
  const stop = el("button", { type: "button", class: "choose", disabled: true, onclick: unwatch }, "Stop");
  const form = el("form", { onsubmit: async (event) => {
    event.preventDefault();
    if (send.disabled) return;
    const signal = watch();
    send.disabled = true;
    stop.disabled = false;
    say("");
    const asked = { prompt: prompt.value, system: system.value, chat: chat.checked, seed: Number(seed.value),
      temperature: Number(temperature.value), max_tokens: Number(length.value) };
    const outcomes = await Promise.allSettled(columns.map((own) => converse(own, asked, signal).catch((error) => {
      own.line.textContent = signal.aborted ? `${own.tokens.length} tokens, stopped` : error.message;
      throw error;
    })));
    send.disabled = false;
    stop.disabled = true;
    const failed = outcomes.find((outcome) => outcome.status === "rejected");
    say(failed ? (signal.aborted ? "Stopped" : failed.reason.message) : "All have answered", Boolean(failed) && !signal.aborted);
  }, onkeydown: (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(); } },
  el("label", { class: "block", for: "talk-prompt" }, "Prompt"), prompt,
  el("details", {}, el("summary", {}, "Settings"),
    el("div", { class: "choices" }, el("label", {}, chat, "chat template"), temperatureLabel, lengthLabel, seedLabel),
    el("label", { class: "block" }, "System message", system)),
  el("div", { class: "verdicts" }, send, stop));
  main.replaceChildren(el("h2", {}, "Talk"), form, el("div", { class: "answers" }, columns.map((own) => own.box)),
    el("p", { class: "note" }, "Shades: ", [["p0", "50 % or more"], ["p1", "20 %"], ["p2", "5 %"], ["p3", "1 %"], ["p4", "less probable"]].map(([name, what]) => [el("span", { class: `token ${name}` }, what), " "]).flat()));
  prompt.focus();
}
