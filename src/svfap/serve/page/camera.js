// The camera: its pictures go to the server one at a time, each when the one before has been answered, so that none waits.
import { problem, text } from "/static/app.js";

const LONGER_SIDE = 640, QUALITY = 0.8, RATE_OVER_MS = 2000, TEXT_PX = 13;  // of the page
const COLORS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999"];
const $ = id => document.getElementById(id);
const video = $("camera-video"), labels = $("camera-labels");
let session = null;

export async function startCamera() {
  if (session) return stopCamera();
  const mine = session = { answered: [], socket: null, stream: null, shape: null };
  $("camera-start").textContent = text("camera_stop");
  try {
    mine.stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user" }, audio: false });
  } catch (error) {
    stopCamera();
    throw new Error(text("camera_none", { reason: error.message || error.name }));
  }
  if (session !== mine) return mine.stream.getTracks().forEach(track => track.stop());
  video.srcObject = mine.stream;
  await video.play();
  const scheme = window.location.protocol === "https:" ? "wss" : "ws";
  mine.socket = new WebSocket(`${scheme}://${window.location.host}/v1/camera?model=${encodeURIComponent($("camera-model").value)}`);
  mine.socket.addEventListener("message", event => receive(mine, JSON.parse(event.data)));
  mine.socket.addEventListener("close", event => {
    if (session !== mine) return;
    stopCamera();
    problem(text("camera_lost", { reason: event.reason }));
  });
}

export function stopCamera() {
  if (!session) return;
  const { socket, stream } = session;
  session = null;
  socket?.close();
  stream?.getTracks().forEach(track => track.stop());
  video.srcObject = null;
  labels.getContext("2d").clearRect(0, 0, labels.width, labels.height);
  $("camera-values").replaceChildren();
  $("camera-status").textContent = "";
  $("camera-start").textContent = text("camera_start");
}

async function send(mine) {
  if (session !== mine || mine.socket.readyState !== WebSocket.OPEN) return;
  const scale = Math.min(1, LONGER_SIDE / Math.max(video.videoWidth, video.videoHeight));
  const canvas = new OffscreenCanvas(Math.round(video.videoWidth * scale), Math.round(video.videoHeight * scale));
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: QUALITY });
  if (session === mine && mine.socket.readyState === WebSocket.OPEN) mine.socket.send(blob);
}

function receive(mine, answer) {
  if (session !== mine) return;
  if (answer.names) mine.shape = answer;
  else if (answer.faces) show(mine, answer);
  send(mine);
}

function show(mine, { faces, size }) {
  const now = performance.now(), { names, probabilities } = mine.shape;
  mine.answered = [...mine.answered.filter(time => now - time < RATE_OVER_MS), now];
  if (mine.answered.length > 1) {
    const rate = 1000 * (mine.answered.length - 1) / (now - mine.answered[0]);
    $("camera-status").textContent = text("camera_rate", { rate: rate.toFixed(1) });
  }
  Object.assign(labels, { width: size[0], height: size[1] });
  const pen = labels.getContext("2d");
  const zoom = size[0] / Math.max(labels.clientWidth, 1), font = TEXT_PX * zoom, height = 1.25 * font;
  pen.font = `600 ${font}px system-ui, sans-serif`;
  pen.lineWidth = 2 * zoom;
  for (const face of faces) {
    const [x, y, w, h] = face.box, color = COLORS[(face.track - 1) % COLORS.length];
    pen.strokeStyle = color;
    pen.strokeRect(x, y, w, h);
    const best = face.values && probabilities ? face.values.indexOf(Math.max(...face.values)) : -1;
    const lines = best >= 0 ? [`${face.track} ${names[best]} ${Math.round(100 * face.values[best])}%`]
      : [String(face.track), ...(face.values ?? []).map((value, k) => `${names[k].replaceAll("_", " ")} ${value.toFixed(2)}`)];
    const width = Math.max(...lines.map(line => pen.measureText(line).width)) + 10;
    const left = x + w + width < size[0] ? x + w : Math.max(0, x - width);
    pen.fillStyle = "rgb(0 0 0 / .72)";
    pen.fillRect(left, y, width, height * lines.length + 4);
    pen.fillStyle = "#fff";
    lines.forEach((line, k) => pen.fillText(line, left + 5, y + height * (k + 0.85)));
  }
  listValues(faces, mine.shape);
}

function listValues(faces, { names, probabilities }) {
  const place = $("camera-values");
  place.replaceChildren();
  if (!faces.length) { place.textContent = text("no_face"); return; }
  const table = place.appendChild(document.createElement("table")), body = table.createTBody();
  const head = table.createTHead().insertRow();
  for (const name of ["", ...faces.map(face => text("face", { number: face.track }))]) {
    const cell = head.appendChild(document.createElement("th"));
    cell.textContent = name;
    cell.scope = "col";
  }
  names.forEach((name, k) => {
    const row = body.insertRow(), label = row.appendChild(document.createElement("th"));
    label.textContent = name.replaceAll("_", " ");
    label.scope = "row";
    for (const face of faces) {
      const cell = row.insertCell(), value = face.values?.[k];
      cell.className = "number";
      cell.textContent = value === undefined ? "–" : probabilities ? `${(100 * value).toFixed(0)}%` : value.toFixed(2);
    }
  });
}
