// Search on pages that are opened from a folder: there a browser loads no worker and no JSON by address, so that both
// come as scripts, which `hooks.py` writes.
if (location.protocol === "file:") {
  const source = new URL("search/worker.js", document.currentScript.src);
  document.write(`<script src="${source}"></script>`);
  const Plain = window.Worker;
  window.Worker = class extends Plain {
    constructor() {
      super(URL.createObjectURL(new Blob([window.searchWorker], { type: "text/javascript" })));
    }
  };
}
