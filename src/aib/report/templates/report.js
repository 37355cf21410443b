for (const fader of document.querySelectorAll(".fader")) {
  fader.hidden = false;
  fader.querySelector("input").addEventListener("input", (event) => {
    document.documentElement.style.setProperty("--map", event.target.value / 100);
    for (const other of document.querySelectorAll(".fader input")) other.value = event.target.value;
  });
}
