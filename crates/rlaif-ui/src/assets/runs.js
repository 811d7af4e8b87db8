// Runs: their curves, findings and samples, and the stop.

import { ask, clean, decide, digits, eachEvent, el, get, main, refreshEvery, say, table, text, watch } from "./page.js";

/** An SVG that the server has drawn. */
const drawing = (svg) => document.importNode(new DOMParser().parseFromString(svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"'), "image/svg+xml").documentElement, true);

const pathOf = (kind, name) => `/api/${kind}/${name.split("/").map(encodeURIComponent).join("/")}`;

const age = (seconds) => (seconds === null ? "–" : seconds < 90 ? `${seconds} s ago` : seconds < 5400 ? `${Math.round(seconds / 60)} min ago` : `${Math.round(seconds / 3600)} h ago`);

/** Asks before a run is stopped. */
function confirmStop(name) {
  decide("Stop this run?", [clean(name), ": it finishes its step, writes a checkpoint and ends, as after Ctrl‑C. ", el("code", {}, "--resume"), " continues it."],
    ["Let it run", "Stop the run"], async () => {
      try {
        await ask("POST", pathOf("stop", name));
        say(`${name} ends after its step`);
      } catch (error) {
        say(error.message, true);
      }
    });
}

const MISSING = "No folder below has a metrics.jsonl.";
const HEADS = ["show", "run", "step", "last step", "state", "findings", "report"];
const cellsOf = (one) => [one.step === null ? "–" : String(one.step), age(one.age_s), one.running ? "running" : "–", String(one.findings), one.report ? "yes" : "–"];

/** What stands below the curves of a run: the stop button, findings, samples, the run file. */
function runSection(name) {
  const stop = el("button", { type: "button", class: "choose", hidden: true, onclick: () => confirmStop(name) }, `Stop ${clean(name)}`);
  const [findings, samples, file] = [el("div"), el("div"), el("pre", { tabindex: "0" })];
  const box = el("section", { "aria-label": clean(name) }, el("h3", {}, clean(name)), stop, findings, samples, el("details", {}, el("summary", {}, "run file"), file));
  const known = new Map();
  /** Details that are open stay open. */
  const show = (run) => {
    findings.replaceChildren(...run.findings.map((one) => el("p", { class: "warning" }, clean(`step ${one.step}: ${one.seen}. ${one.cause} ${one.advice}`))));
    for (const sample of run.samples) {
      const [key, responses] = [JSON.stringify(sample.prompt), JSON.stringify(sample.responses)];
      if (!known.has(key)) {
        const content = el("div");
        known.set(key, { content, last: null });
        samples.append(el("details", {}, el("summary", {}, text(sample.prompt)), content));
      }
      const own = known.get(key);
      if (own.last === responses) continue;
      own.last = responses;
      own.content.replaceChildren(table("responses over time", ["step", "score", "response"], sample.responses.map((one) =>
        [String(one.step), one.score === null ? "–" : digits(one.score), text(one.response)])));
    }
    file.replaceChildren(text(run.file));
  };
  return { box, stop, show, seen: null };
}

/** Draws the curves of runs as they arrive: each number in one figure, with the lines of all runs on common axes. */
function drawCurves(legend, curves, names, signal) {
  const figures = new Map();
  const one = names.length === 1 ? el("small", {}, ` ${clean(names[0])}`) : null;
  const line = (kind) => drawing(`<svg viewBox="0 0 32 10" aria-hidden="true"><polyline class="${kind}" points="0,5 32,5"/></svg>`);
  const drawn = ({ runs: all, curves: found }) => {
    const failed = all.filter((run) => run.error);
    if (failed.length) say(failed.map((run) => run.error).join(". "), true);
    if (names.length > 1 && !legend.children.length) {
      legend.append(...all.map((run) => el("li", {}, line(run.class), el("span", {}, clean(run.name)))));
    }
    for (const { name, svg } of found) {
      if (!figures.has(name)) {
        figures.set(name, el("figure", { "data-name": name }));
        curves.replaceChildren(...[...figures.keys()].sort().map((key) => figures.get(key)));
      }
      figures.get(name).replaceChildren(el("figcaption", {}, clean(name), one?.cloneNode(true)), drawing(clean(svg)));
    }
  };
  ask("POST", "/api/curves", { runs: names }, { signal }).then((response) => eachEvent(response, drawn))
    .catch((error) => { if (!signal.aborted) say(error.message, true); });
}

/** The list of runs; the curves of the chosen ones stand below it, in common figures. */
export async function runs() {
  const chosen = new Set();
  const sections = new Map();
  const [list, below] = [el("div"), el("div")];
  let found = [];
  main.replaceChildren(el("h2", {}, "Runs"), list, below);
  /** Asks for what has changed in the chosen runs. */
  const look = () => Promise.all(found.filter((one) => sections.has(one.name)).map(async (one) => {
    const section = sections.get(one.name);
    section.stop.hidden = !one.running;
    const now = `${one.step} ${one.findings}`;
    if (section.seen === now) return;
    section.seen = now;
    section.show(await get(pathOf("run", one.name)));
  }));
  const choose = async () => {
    const signal = watch();
    const names = [...chosen].sort();
    for (const name of sections.keys()) if (!chosen.has(name)) sections.delete(name);
    for (const name of names) if (!sections.has(name)) sections.set(name, runSection(name));
    const [legend, curves] = [el("ul", { class: "legend", "aria-label": "lines of runs" }), el("div", { class: "grid" })];
    below.replaceChildren(...(names.length > 1 ? [legend] : []), curves, ...names.map((name) => sections.get(name).box));
    if (names.length) drawCurves(legend, curves, names, signal);
    await look();
  };
  const box = (one) => el("input", { type: "checkbox", "aria-label": `show ${clean(one.name)}`, checked: chosen.has(one.name), onchange: (event) => {
    chosen[event.target.checked ? "add" : "delete"](one.name);
    choose().catch((error) => say(error.message, true));
  } });
  async function refresh() {
    const names = found.map((one) => one.name).join("\n");
    found = await get("/api/runs");
    if (!found.length) return list.replaceChildren(el("p", {}, MISSING));
    if (names !== found.map((one) => one.name).join("\n")) {
      list.replaceChildren(table("runs", HEADS, found.map((one) => [box(one), clean(one.name), ...cellsOf(one)])));
    } else {
      list.querySelectorAll("tbody tr").forEach((row, at) => cellsOf(found[at]).forEach((cell, place) => {
        if (row.cells[place + 2].textContent !== cell) row.cells[place + 2].textContent = cell;
      }));
    }
    return look();
  }
  await refresh();
  refreshEvery(refresh, 3000);
}
