// #/status: versions, replicas, and the configuration that is in use.

import * as api from "./api.js";
import { h, replace } from "./dom.js";
import { ago, clock } from "./time.js";

/** Fill `main` and return what loads it again. */
export function statusPage(main) {
  const place = h("div", {}, h("p", { class: "quiet" }, "Loading ..."));
  main.replaceChildren(h("h1", {}, "Status"), place);
  return async () => {
    const { cluster, config, uptime, versionInfo } = await api.status();
    const peers = cluster.peers ?? [];
    replace(
      place,
      h(
        "dl",
        { class: "facts" },
        [h("dt", {}, "Running since"), h("dd", {}, `${clock(uptime)} (${ago(uptime)})`)],
        Object.entries(versionInfo).filter(([, value]) => value).map(([name, value]) => [h("dt", {}, words(name)), h("dd", {}, value)]),
        [h("dt", {}, "Replicas"), h("dd", {}, cluster.name ? `${cluster.status}, this one is ${cluster.name}` : cluster.status)],
        peers.map((peer) => [h("dt", {}, "Peer"), h("dd", {}, `${peer.name} ${peer.address}`)]),
      ),
      h("h2", {}, "Configuration"),
      h("pre", { class: "config", tabindex: "0" }, config.original),
    );
  };
}

const words = (name) => name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`).replace(/^./, (letter) => letter.toUpperCase());
