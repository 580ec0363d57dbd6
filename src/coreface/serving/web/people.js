// People: enrol, search, delete.

import { element, message } from "./elements.js";
import { call, inWords } from "./service.js";

let search = "";
let next = null;
let wanted = 0; // the number of the last listing that was asked for: older answers are dropped
let mayDelete = false;
let roleOf = () => undefined;

export function peopleSection(info) {
  document.getElementById("enrol-form").addEventListener("submit", (event) => {
    event.preventDefault();
    enrol(false);
  });
  let timer;
  document.getElementById("people-search").addEventListener("input", (event) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      search = event.target.value.trim();
      list();
    }, 200);
  });
  document.getElementById("people-more").addEventListener("click", () => list(next));
  roleOf = () => info()?.role;
}

export function showPeople() {
  const role = roleOf();
  document.getElementById("enrol-form").hidden = !(role === "enrol" || role === "admin");
  mayDelete = role === "admin";
  list();
}

async function list(cursor = null) {
  const number = ++wanted;
  const note = document.getElementById("people-note");
  const query = new URLSearchParams({ limit: "50" });
  if (search) query.set("search", search);
  if (cursor) query.set("cursor", cursor);
  let page;
  try {
    page = await call("GET", `/v1/people?${query}`);
  } catch (error) {
    note.textContent = error.message;
    return;
  }
  if (number !== wanted) return;
  const place = document.getElementById("people-list");
  if (!cursor) place.replaceChildren();
  place.append(...page.people.map(row));
  next = page.next;
  document.getElementById("people-more").hidden = !next;
  const shown = place.children.length;
  note.textContent = shown ? `${shown}${next ? " shown, there are more" : shown === 1 ? " person" : " people"}`
    : search ? "Nobody of this name." : "Nobody is enrolled yet.";
}

function row(person) {
  const images = `${person.images} ${person.images === 1 ? "photograph" : "photographs"}`;
  const remove = element("button", { type: "button", class: "danger", "aria-label": `Delete ${person.name}` }, "Delete");
  remove.addEventListener("click", () => removePerson(person, remove));
  return element(
    "li",
    {},
    element("span", { class: "who" }, element("strong", {}, person.name), element("br"), element("span", { class: "hint" }, images)),
    mayDelete ? remove : null,
  );
}

async function removePerson(person, button) {
  if (!(await confirmed(`Delete ${person.name} and all photographs enrolled for this person? This cannot be undone.`))) {
    button.focus();
    return;
  }
  try {
    await call("DELETE", `/v1/people/${encodeURIComponent(person.id)}`);
  } catch (error) {
    document.getElementById("people-note").textContent = error.message;
    return;
  }
  await list();
  document.getElementById("people-search").focus();
}

function confirmed(text) {
  const dialog = document.getElementById("confirm");
  document.getElementById("confirm-text").textContent = text;
  return new Promise((resolve) => {
    let answer = false;
    document.getElementById("confirm-yes").onclick = () => {
      answer = true;
      dialog.close();
    };
    document.getElementById("confirm-no").onclick = () => dialog.close();
    dialog.onclose = () => resolve(answer);
    dialog.showModal();
    document.getElementById("confirm-no").focus();
  });
}

async function enrol(allowSimilar) {
  const form = document.getElementById("enrol-form");
  const result = document.getElementById("enrol-result");
  const name = document.getElementById("person-name").value.trim();
  const files = [...document.getElementById("person-images").files];
  if (!name || !files.length) return;
  const submit = form.querySelector("button[type=submit]");
  submit.disabled = true;
  result.replaceChildren(message("Enrolling …"));
  const body = new FormData();
  body.append("id", crypto.randomUUID?.() ?? `${Date.now()}-${Math.random().toString(16).slice(2)}`);
  body.append("name", name);
  body.append("allow_similar", `${allowSimilar}`);
  for (const [number, file] of files.entries()) body.append("images", file, `${number}`);
  try {
    const answer = await call("POST", "/v1/people", { form: body });
    const count = answer.images.length;
    result.replaceChildren(
      message(`${name} is enrolled with ${count} ${count === 1 ? "photograph" : "photographs"}.`, "good"),
      ...refusals(answer.refused, files),
    );
    form.reset();
    list();
  } catch (error) {
    const similar = error.problem?.similar ?? [];
    const names = similar.map((candidate) => candidate.name).join(", ");
    result.replaceChildren(
      message(similar.length ? `${name} resembles ${names}, who is enrolled already.` : enrolError(error), "error"),
      ...(similar.length ? [anyway()] : refusals(error.problem?.refused ?? [], files)),
    );
  }
  submit.disabled = false;
}

function anyway() {
  return element("button", { type: "button", onclick: () => enrol(true) }, "These are two people: enrol anyway");
}

function enrolError(error) {
  return error.code === "nothing-enrolled" ? "None of the photographs can be used." : error.message;
}

function refusals(refused, files) {
  if (!refused.length) return [];
  const items = refused.map((row) =>
    element("li", {}, `${files[row.index]?.name ?? `photograph ${row.index + 1}`}: ${inWords(row.code, row.message)}`),
  );
  return [element("p", {}, "Not used:"), element("ul", {}, ...items)];
}
