// The page: sections by the address, the key, what the service says of itself.

import { aboutSection } from "./about.js";
import { compareSection } from "./compare.js";
import { identifySection } from "./identify.js";
import { peopleSection, showPeople } from "./people.js";
import { call, useKey } from "./service.js";

const sections = [...document.querySelectorAll("main > section")];
const links = [...document.querySelectorAll("nav a")];
const keyForm = document.getElementById("key-form");
const serviceMessage = document.getElementById("service-message");
let info = null;

function show() {
  const offered = sections.filter((section) => !links.some((link) => link.hash === `#${section.id}` && link.hidden));
  const wanted = offered.find((section) => `#${section.id}` === location.hash) ?? sections[0];
  for (const section of sections) section.hidden = section !== wanted;
  for (const link of links) {
    if (link.hash === `#${wanted.id}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (wanted.id === "people") showPeople();
}

async function start() {
  serviceMessage.hidden = true;
  try {
    info = await call("GET", "/v1/info");
  } catch (error) {
    const keyWanted = error.code === "key-required" || error.code === "key-refused";
    keyForm.hidden = !keyWanted;
    serviceMessage.hidden = error.code === "key-required";
    serviceMessage.textContent = error.message;
    return;
  }
  keyForm.hidden = true;
  for (const link of links) if ("gallery" in link.dataset) link.hidden = !info.gallery;
  aboutSection(info);
  show();
}

keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  const input = document.getElementById("key");
  useKey(input.value.trim());
  input.value = "";
  start();
});
window.addEventListener("hashchange", show);
compareSection(() => info);
identifySection();
peopleSection(() => info);
show();
await start();
document.documentElement.dataset.ready = "true";
