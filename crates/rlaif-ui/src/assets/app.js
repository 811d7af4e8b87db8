// The page: an annotator's items, or the owner's views.

import { el, get, leave, main, say, session, token } from "./page.js";
import { label } from "./label.js";
import { overview } from "./study.js";
import { runs } from "./runs.js";
import { talk } from "./talk.js";

function views(me) {
  const open = (view) => {
    leave();
    say("");
    view().catch((error) => say(error.message, true));
  };
  const all = [["Study", me.study, overview], ["Runs", me.runs, runs], ["Talk", me.models.length, talk]].filter(([, there]) => there);
  if (all.length > 1) {
    document.querySelector(".bar").append(el("nav", { "aria-label": "views" }, all.map(([name, , view]) =>
      [el("button", { type: "button", class: "choose", onclick: () => open(view) }, name), " "]).flat()));
  }
  return all[0][2]();
}

async function start() {
  if (!token) throw new Error("The address has no token; open the address that `rlaif ui` printed.");
  const me = await get("/api/me");
  session.me = me;
  if (me.hidden) session.hidden = new RegExp(me.hidden, "gu");
  if (me.study) {
    document.title = me.study.title;
    document.getElementById("title").textContent = me.study.title;
  }
  document.getElementById("who").textContent = me.name ?? me.role;
  if (me.role === "owner") return views(me);
  return label();
}

window.addEventListener("hashchange", () => location.reload());
start().catch((error) => {
  main.replaceChildren(el("h2", {}, "Not available"), el("p", {}, error.message));
});
