// The page of `svfap app`: submits videos, follows the jobs, and shows the results beside the playing video. No library.
// Every text from outside is inserted as text, never as HTML.
import { startCamera, stopCamera } from "/static/camera.js";

const EVERY_MS = 1000, PICTURES = /\.(jpe?g|png|bmp|webp|tiff?|ppm|pgm)$/i;
const $ = id => document.getElementById(id);
const strings = await (await fetch("/static/strings.json")).json();
export const text = (key, values = {}) => strings[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
for (const each of document.querySelectorAll("[data-text]")) each.textContent = text(each.dataset.text);
for (const each of document.querySelectorAll("[data-placeholder]")) each.placeholder = text(each.dataset.placeholder);

let jobs = [], opened = null, waiting = null;
const uploads = new Map();  // number -> { name, sent, request, reason }
let numUploads = 0;

function element(parent, name, className = "", content = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (content) made.textContent = content;
  parent.append(made);
  return made;
}
function button(parent, key, act, name) {
  const made = element(parent, "button", "", text(key));
  made.type = "button";
  made.setAttribute("aria-label", `${text(key)}: ${name}`);
  made.addEventListener("click", act);
  return made;
}
function duration(seconds) {
  const all = Math.max(1, Math.round(seconds)), minutes = Math.floor(all / 60);
  return minutes >= 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : minutes ? `${minutes} min ${all % 60} s` : `${all} s`;
}
export function problem(message) {
  $("problem").textContent = message;
  $("problem").hidden = !message;
}

// The server's answer as JSON; throws an Error with its reason.
async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", ...options });
  } catch {
    throw new Error(text("lost"));
  }
  if (answer.status === 401) throw new Error(text("no_key"));
  if (answer.status === 204) return null;
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(reasonOf(content, answer.status));
  return content;
}
const reasonOf = (content, status) => typeof content.detail === "string" ? content.detail : `${status}: ${JSON.stringify(content.detail ?? content)}`;
const telling = act => async (...given) => {
  try {
    await act(...given);
    problem("");
  } catch (error) {
    problem(error.message);
  }
};

// ---- submitting ----

function settings() {
  const form = $("submit"), chosen = { model: form.elements.model.value };
  for (const name of ["faces", "border"]) if (form.elements[name].value) chosen[name] = form.elements[name].value;
  for (const name of ["hop_s", "min_face_px", "detect_every", "margin", "fps"]) {
    if (form.elements[name].value !== "") chosen[name] = Number(form.elements[name].value);
  }
  if (form.elements.align.value) chosen.align = form.elements.align.value === "true";
  for (const name of ["overlay", "landmarks"]) if (form.elements[name].checked) chosen[name] = true;
  return JSON.stringify(chosen);
}

// One after another, so that the first can be read while the next arrives.
async function submitFiles(files) {
  const chosen = settings();
  const begun = [...files].map(file => {
    uploads.set(++numUploads, { name: file.name, sent: 0, request: null, reason: "" });
    return [numUploads, file];
  });
  draw();
  for (const [number, file] of begun) if (uploads.has(number)) await upload(number, file, chosen);
}
function upload(number, file, chosen) {
  const entry = uploads.get(number), request = new XMLHttpRequest(), form = new FormData();
  form.append("settings", chosen);
  form.append("file", file);
  entry.request = request;
  return new Promise(resolve => {
    const failed = reason => { entry.reason = reason; resolve(); draw(); };
    request.upload.addEventListener("progress", event => { entry.sent = event.loaded / Math.max(event.total, 1); draw(); });
    request.addEventListener("load", () => {
      let content = {};
      try { content = JSON.parse(request.responseText); } catch { /* not from this server */ }
      if (request.status !== 201) return failed(reasonOf(content, request.status));
      uploads.delete(number);
      resolve();
      refresh();
    });
    request.addEventListener("error", () => failed(text("lost")));
    request.addEventListener("abort", () => { uploads.delete(number); resolve(); draw(); });
    request.open("POST", "/v1/jobs");
    request.send(form);
  });
}
$("files").addEventListener("change", () => { submitFiles($("files").files); $("files").value = ""; });
$("submit").addEventListener("submit", telling(async event => {
  event.preventDefault();
  const address = $("submit").elements.address;
  if (!address.value) return;
  const form = new FormData();
  form.append("settings", settings());
  form.append("address", address.value);
  await ask("/v1/jobs", { method: "POST", body: form });
  address.value = "";
  await refresh();
}));
for (const kind of ["dragenter", "dragover"]) document.addEventListener(kind, event => { event.preventDefault(); $("drop").classList.add("over"); });
for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, event => { event.preventDefault(); $("drop").classList.remove("over"); });
document.addEventListener("drop", event => { if (event.dataTransfer?.files.length) submitFiles(event.dataTransfer.files); });

// ---- the list of jobs ----

function stateOf(job) {
  const parts = [text(`state_${job.state}`)];
  if (job.state === "queued" && job.ahead) parts.push(text("ahead", { number: job.ahead }));
  if (job.state === "running" && job.total && job.frames) {
    parts.push(job.frames === job.total ? text("finishing") : `${Math.floor(100 * job.frames / job.total)}%`);
    if (job.seconds_left) parts.push(text("left", { time: duration(job.seconds_left) }));
  }
  return parts.join(", ");
}
// Entries stay where they are, so that the focus is kept; only what has changed is drawn again.
function entry(key, signature, fill) {
  let item = $("jobs").querySelector(`[data-key="${key}"]`);
  if (!item) {
    item = document.createElement("li");
    item.dataset.key = key;
  }
  if (item.dataset.signature !== signature) {
    const focused = item.contains(document.activeElement) ? document.activeElement.dataset.act : null;
    item.replaceChildren();
    fill(item);
    item.dataset.signature = signature;
    if (focused) item.querySelector(`[data-act="${focused}"]`)?.focus();
  }
  return item;
}
function draw() {
  const items = [];
  for (const [number, one] of [...uploads].reverse()) {
    const state = one.reason ? text("state_failed") : `${text("state_uploading")}, ${Math.floor(100 * one.sent)}%`;
    items.push(entry(`upload-${number}`, JSON.stringify([state, one.reason]), item => {
      element(item, "div", "name", one.name);
      element(item, "div", "state", state);
      const actions = element(item, "div", "actions");
      button(actions, one.reason ? "delete" : "cancel", () => {
        uploads.delete(number);
        if (one.request && !one.reason) one.request.abort();
        draw();
      }, one.name).dataset.act = "end";
      if (one.reason) element(item, "p", "notice reason", one.reason);
      else bar(item, one.sent, one.name);
    }));
  }
  for (const job of [...jobs].reverse()) {
    const state = stateOf(job);
    items.push(entry(job.id, JSON.stringify([state, job.reason, job.name, job.has_video, job.frames]), item => {
      element(item, "div", "name", job.name);
      element(item, "div", "state", state);
      const actions = element(item, "div", "actions"), is = (...states) => states.includes(job.state);
      const act = (key, run) => { button(actions, key, telling(run), job.name).dataset.act = key; };
      if (is("done")) act("open", () => open(job));
      if (is("fetching", "queued", "running")) act("cancel", async () => { await ask(`/v1/jobs/${job.id}/cancel`, { method: "POST" }); await refresh(); });
      if (is("failed", "cancelled") && job.has_video) act("again", async () => { await ask(`/v1/jobs/${job.id}/again`, { method: "POST" }); await refresh(); });
      if (is("done", "failed", "cancelled")) act("delete", async () => {
        if (!confirm(text("delete_question", { name: job.name }))) return;
        await ask(`/v1/jobs/${job.id}`, { method: "DELETE" });
        if (opened === job.id) close();
        await refresh();
      });
      if (job.reason) element(item, "p", "notice reason", job.reason);
      if (is("running")) bar(item, job.total && job.frames ? job.frames / job.total : null, job.name);
    }));
  }
  const list = $("jobs");
  items.forEach((item, place) => { if (list.children[place] !== item) list.insertBefore(item, list.children[place] ?? null); });
  while (list.children.length > items.length) list.lastChild.remove();
  $("no-jobs").hidden = items.length > 0;
}
function bar(item, part, name) {
  const made = element(item, "progress");
  made.setAttribute("aria-label", name);
  if (part !== null) made.value = part;
}
async function refresh() {
  clearTimeout(waiting);
  try {
    jobs = await ask("/v1/jobs");
    if ([text("lost"), text("no_key")].includes($("problem").textContent)) problem("");
    draw();
  } catch (error) {
    problem(error.message);
  }
  waiting = setTimeout(refresh, EVERY_MS);
}

// ---- one job: the video, its timelines, downloads, persons ----

const player = $("player"), timelines = $("timelines");

async function open(job) {
  close();
  opened = job.id;
  $("viewer").hidden = false;
  $("viewer-heading").textContent = job.name;
  $("viewer").classList.add("opening");
  notice(text("opening"));
  $("viewer").scrollIntoView({ block: "start", behavior: "instant" });
  const rows = await readRows(job.id);
  await tellMethods(job);
  if (opened !== job.id) return;
  $("viewer").classList.remove("opening");
  notice(job.has_video ? "" : text("no_video"));
  const isPicture = PICTURES.test(job.name);
  player.hidden = !job.has_video || isPicture;
  $("picture").hidden = !job.has_video || !isPicture;
  if (job.has_video && isPicture) Object.assign($("picture"), { src: `/v1/jobs/${job.id}/video`, alt: job.name });
  else if (job.has_video) player.src = `/v1/jobs/${job.id}/video`;
  const heads = job.pages;
  $("head-choice").hidden = heads.length < 2;
  $("head").replaceChildren();
  for (const head of heads) element($("head"), "option", "", head).value = head;
  showPage(job, heads[0] ?? "");
  $("head").onchange = () => showPage(job, $("head").value);
  $("copy-status").textContent = $("persons-status").textContent = "";
  $("notes").replaceChildren();
  for (const note of job.notes) element($("notes"), "li", "", note);
  $("notes-heading").hidden = !job.notes.length;
  drawPersons(job, [...new Set(rows.map(row => row.track).filter(track => track !== undefined))].sort((a, b) => a - b));
  drawDownloads(job);
  $("viewer").focus({ preventScroll: true });  // it is in view, and a second way there would pass it
  $("viewer").scrollIntoView({ block: "start", behavior: "instant" });
}
// What is chosen for the downloads, as a query.
function choices() {
  const chosen = new URLSearchParams();
  for (const name of ["smooth_s", "decimals"]) if ($(name).value !== "") chosen.set(name, $(name).value);
  if ($("baseline").checked) chosen.set("baseline", "median");
  return chosen;
}
// The paragraph is about the table as it would be downloaded now.
async function tellMethods(job) {
  const { methods } = await ask(`/v1/jobs/${job.id}/about?${choices()}`);
  if (opened === job.id) $("methods").textContent = methods;
}
function showPage(job, head) {
  timelines.title = text("timelines", { name: job.name });
  timelines.src = `/v1/jobs/${job.id}/page?head=${encodeURIComponent(head)}`;
}
function close() {
  opened = null;
  player.pause();
  player.removeAttribute("src");
  player.load();
  timelines.removeAttribute("src");
  $("picture").removeAttribute("src");
  $("viewer").hidden = true;
}
$("close").addEventListener("click", () => { const id = opened; close(); $("jobs").querySelector(`[data-key="${id}"] [data-act=open]`)?.focus(); });
function notice(message) {
  $("viewer-notice").textContent = message;
  $("viewer-notice").hidden = !message;
}
player.addEventListener("error", () => {
  if (!player.getAttribute("src")) return;
  const job = jobs.find(one => one.id === opened), drawn = `/v1/jobs/${opened}/overlay`;
  if (job?.has_overlay && !player.src.endsWith("/overlay")) player.src = drawn;
  else notice(text("cannot_play"));
});
async function readRows(id) {
  const answer = await fetch(`/v1/jobs/${id}/rows`);
  return (await answer.text()).split("\n").filter(Boolean).map(line => JSON.parse(line));
}

// The player and the timelines keep to one time: see the end of the page's own script.
const tell = () => timelines.contentWindow?.postMessage({ time: player.currentTime }, window.location.origin);
let following = null;
const follow = () => { tell(); following = requestAnimationFrame(follow); };
player.addEventListener("play", () => { cancelAnimationFrame(following); follow(); });
for (const kind of ["pause", "ended", "emptied"]) player.addEventListener(kind, () => cancelAnimationFrame(following));
player.addEventListener("seeked", () => { if (!seeking) tell(); seeking = false; });
let seeking = false;  // by the timelines, which know
window.addEventListener("message", event => {
  if (event.source !== timelines.contentWindow || event.origin !== window.location.origin || !Number.isFinite(event.data?.time)) return;
  if (!player.getAttribute("src")) return;
  seeking = true;
  player.currentTime = event.data.time;
});

function drawPersons(job, tracks) {
  $("persons").hidden = !tracks.length;
  $("person-fields").replaceChildren();
  for (const track of tracks) {
    const label = element($("person-fields"), "label");
    element(label, "span", "", text("face", { number: track }));
    const input = element(label, "input");
    input.name = String(track);
    input.maxLength = 100;
    input.value = job.persons[track] ?? "";
  }
  $("persons").onsubmit = telling(async event => {
    event.preventDefault();
    const named = Object.fromEntries([...$("person-fields").querySelectorAll("input")].filter(one => one.value.trim()).map(one => [one.name, one.value.trim()]));
    await ask(`/v1/jobs/${job.id}/persons`, { method: "PUT", headers: { "Content-Type": "application/json" }, body: JSON.stringify(named) });
    $("persons-status").textContent = text("saved");
    await refresh();
    const now = jobs.find(one => one.id === job.id);
    if (!now || opened !== job.id) return;
    showPage(now, $("head").value);
    await tellMethods(now);
  });
}
function drawDownloads(job) {
  const update = () => {
    const chosen = choices(), table = (format, more = "") => `/v1/jobs/${job.id}/table?format=${format}${more}&${chosen}`;
    const links = [
      ["download_csv", table("csv")], ["download_parquet", table("parquet")], ["download_xlsx", table("xlsx")],
      ["download_eaf", table("eaf")], ["download_vtt", table("vtt")], ["download_summary", table("csv", "&summary=true")],
      ["download_page", `/v1/jobs/${job.id}/page?download=true&head=${encodeURIComponent(job.pages[0] ?? "")}`],
      ...(job.has_overlay ? [["download_overlay", `/v1/jobs/${job.id}/overlay`]] : []),
      ["download_about", `/v1/jobs/${job.id}/about?download=true&${chosen}`],
    ];
    $("downloads").replaceChildren();
    for (const [key, address] of links) {
      const link = element(element($("downloads"), "li"), "a", "", text(key));
      link.href = address;
      link.download = "";
      if (key !== "download_overlay") link.onclick = telling(event => save(event, address));  // which may be refused
    }
  };
  for (const name of ["smooth_s", "decimals", "baseline"]) $(name).oninput = telling(async () => { update(); await tellMethods(job); });
  update();
}
// Save what the server sends, under the name that it gives; throws an Error with its reason if it refuses.
async function save(event, address) {
  event.preventDefault();
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(reasonOf(await answer.json().catch(() => ({})), answer.status));
  const link = document.createElement("a"), disposition = answer.headers.get("Content-Disposition") ?? "";
  const [, coded, plain] = disposition.match(/filename\*=(?:UTF-8|utf-8)''([^;]+)|filename="([^"]+)"/) ?? [];
  link.href = URL.createObjectURL(await answer.blob());
  link.download = coded ? decodeURIComponent(coded) : plain ?? "results";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
$("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText($("methods").textContent);
  $("copy-status").textContent = text("copied");
});

// ---- start ----

function showTab() {
  const camera = window.location.hash === "#camera";
  $("videos").hidden = camera;
  $("camera").hidden = !camera;
  for (const link of document.querySelectorAll("nav.tabs a")) {
    if ((link.hash === "#camera") === camera) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  if (!camera) stopCamera();
}
window.addEventListener("hashchange", showTab);
showTab();
$("camera-start").addEventListener("click", telling(startCamera));
telling(async () => {
  for (const name of await ask("/v1/models")) {
    for (const select of [$("submit").elements.model, $("camera-model")]) element(select, "option", "", name).value = name;
  }
})().then(refresh);
