// The study: people, agreement, exports.

import { ask, digits, el, get, main, percent, refreshEvery, say, table } from "./page.js";

export async function overview() {
  const people = el("div");
  const agreement = el("div");
  const name = el("input", { type: "text", id: "name", required: true, maxlength: "100" });
  const referee = el("input", { type: "checkbox" });
  const form = el("form", { class: "foot", onsubmit: async (event) => {
    event.preventDefault();
    try {
      await ask("POST", "/api/annotators", { name: name.value, referee: referee.checked });
      name.value = "";
      await refresh();
    } catch (error) {
      say(error.message, true);
    }
  } }, el("label", {}, "Name ", name), " ", el("label", {}, referee, " referee"), " ", el("button", { class: "choose" }, "Add"));
  const forms = ["preferences", "demonstrations", "answers", "label-studio", "argilla", "ground-truth"];
  const download = async (kind) => {
    const response = await ask("GET", `/api/export/${kind}`);
    const blob = await response.blob();
    const leftOut = response.headers.get("x-left-out");
    say(leftOut ? `${kind}: ${leftOut}` : `${kind}: saved`, Boolean(leftOut));
    const url = URL.createObjectURL(blob);
    el("a", { href: url, download: `${kind}.${["label-studio", "argilla"].includes(kind) ? "json" : "jsonl"}` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  };
  main.replaceChildren(
    el("h2", {}, "People"), people, form,
    el("h2", {}, "Agreement"), agreement,
    el("h2", {}, "Export"), el("div", { class: "actions" }, forms.map((kind) =>
      el("button", { type: "button", class: "choose", onclick: () => download(kind).catch((error) => say(error.message, true)) }, kind))));
  let last = "";
  async function refresh() {
    const found = await get("/api/study");
    const now = JSON.stringify(found);
    if (now === last) return;
    last = now;
    const by = Object.fromEntries(found.agreement.annotators.map((one) => [one.name, one]));
    people.replaceChildren(table("people", ["name", "role", "answered", "left", "skipped", "median time", "known", "first shown", "with majority", "link"],
      found.people.map((one) => {
        const own = by[one.name];
        const link = one.token ? el("a", { href: `/#${one.token}`, target: "_blank", rel: "noopener", "aria-label": `link of ${one.name}` }, "open") : "–";
        return [one.name, one.role, String(one.done), String(one.left), String(own.skipped),
          own.median_seconds === null ? "–" : `${own.median_seconds.toFixed(1)} s`,
          own.known ? `${own.known_right} of ${own.known}` : "–", percent(own.first_shown), percent(own.with_majority), link];
      })));
    const all = found.agreement;
    const row = (what, one) => [what, String(one.items), String(one.answers), percent(one.raw), digits(one.fleiss_kappa), digits(one.alpha_nominal), digits(one.alpha_interval)];
    const parts = [
      el("p", {}, `${all.answered} of ${all.items} items have answers; people disagree on ${all.conflicts}.`),
      table("agreement", ["agreement on", "items", "answers", "raw", "Fleiss κ", "α names", "α scale"],
        [row("choice", all.choice), ...Object.entries(all.facets).map(([facet, one]) => row(facet, one))]),
    ];
    if (all.pairs.length) {
      parts.push(el("h3", {}, "Two annotators"), table("pairs of annotators", ["one", "the other", "items", "raw", "Cohen κ"],
        all.pairs.map((pair) => [pair.one, pair.other, String(pair.items), percent(pair.raw), digits(pair.cohen_kappa)])));
    }
    if (all.judges.length) {
      const share = (one) => (one ? [percent(one.share), `${percent(one.ci95[0])} to ${percent(one.ci95[1])}`] : ["–", "–"]);
      parts.push(el("h3", {}, "Judges in both orders"), table("judges in both orders", ["judge", "facet", "pairs", "flips", "95 % interval", "first wins", "95 % interval"],
        all.judges.flatMap((judge) => Object.entries(judge.facets).map(([facet, one]) =>
          [judge.name, facet, String(one.position_flip?.n ?? 0), ...share(one.position_flip), ...share(one.first_wins)]))));
    }
    if (all.makers) {
      parts.push(el("h3", {}, "Models"), table("strengths of models", ["model", "comparisons", "θ", "95 % interval", "Elo"],
        all.makers.makers.map((one) => [one.maker, String(one.comparisons), digits(one.theta), `${digits(one.ci95[0])} to ${digits(one.ci95[1])}`, one.elo.toFixed(0)])));
      if (all.makers.prior_because) {
        parts.push(el("p", { class: "warning" }, `${all.makers.prior_because}: ${all.makers.groups.map((group) => group.join(", ")).join(" | ")}. Strengths have a weak prior, and compare models of one group alone.`));
      }
    }
    agreement.replaceChildren(...parts);
  }
  await refresh();
  refreshEvery(refresh, 2000);
}
