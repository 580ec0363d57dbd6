// The page: sections by the address, the key, what the service says of itself.

import { aboutSection } from "./about.js";
import { compareSection } from "./compare.js";
import { call, useKey } from "./service.js";

const sections = [...document.querySelectorAll("main > section")];
const links = [...document.querySelectorAll("nav a")];
const keyForm = document.getElementById("key-form");
const serviceMessage = document.getElementById("service-message");
let info = null;

function show() {
  const wanted = sections.find((section) => `#${section.id}` === location.hash) ?? sections[0];
  for (const section of sections) section.hidden = section !== wanted;
  for (const link of links) {
    if (link.hash === `#${wanted.id}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
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
  aboutSection(info);
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
show();
await start();
document.documentElement.dataset.ready = "true";
