"""The router's own page, in a real Chromium in front of a real router."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tocsin_alerting import testing, ui
from tocsin_alerting.options import Options
from tocsin_alerting.testing import Served
from tocsin_service.db import sqlite_url
from tocsin_service.testing import eventually, sink

CONFIG = """
global: {resolve_timeout: 1h}
route:
  receiver: team.a
  group_by: [alertname]
  group_wait: 0s
  routes:
    - {matchers: [severity="page"], receiver: pager}
receivers:
  - name: team.a
  - name: pager
    webhook_configs: [{url: 'URL'}]
inhibit_rules:
  - {source_matchers: [alertname="Down"], target_matchers: [alertname="Slow"], equal: [service]}
"""
SCRIPT: Final = "<script>document.title='owned'</script>"


class Tab:
    """One page of a Chromium, driven over the DevTools protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self.complaints: list[str] = []
        self._socket = socket
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def listen(self) -> None:
        async for message in self._socket:
            said = json.loads(message)
            if "id" in said:
                self._waiting.pop(said["id"]).set_result(said)
            elif said["method"] in {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}:
                self.complaints.append(json.dumps(said["params"]))

    async def call(self, method: str, **parameters: object) -> dict[str, Any]:
        number = next(self._ids)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        async with asyncio.timeout(20):
            said = await answer
        assert "error" not in said, said
        result: dict[str, Any] = said["result"]
        return result

    async def run(self, script: str) -> Any:
        """Return the value of an expression of the page."""
        said = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url="about:blank")
        await self.call("Page.navigate", url=url)

    async def text(self) -> str:
        return str(await self.run("document.querySelector('main')?.innerText ?? ''"))

    async def shows(self, *words: str) -> str:
        """Wait until the page shows all of `words` and return its text."""

        async def found() -> str:
            text = await self.text()
            return text if all(word in text for word in words) else ""

        try:
            return str(await eventually(found, timeout=20))
        except TimeoutError:
            raise AssertionError(f"{words} not in:\n{await self.text()}\n{self.complaints}") from None

    async def hides(self, word: str) -> None:
        """Wait until the page no longer shows `word`."""

        async def gone() -> bool:
            return word not in await self.text()

        await eventually(gone, timeout=20)

    async def click(self, words: str) -> None:
        """Press the first button or link of `main` that says `words`."""
        script = f"[...document.querySelectorAll('main button, main a')].find(e => e.innerText === {json.dumps(words)})"

        async def there() -> bool:
            return bool(await self.run(f"Boolean({script})"))

        await eventually(there, timeout=20)
        await self.run(f"{script}.click()")

    async def fill(self, field: str, text: str) -> None:
        """Write into a field as a person does: it gets the keyboard, and hears of each change."""
        place = f"document.getElementById({json.dumps(field)})"

        async def there() -> bool:
            return bool(await self.run(f"Boolean({place})"))

        await eventually(there, timeout=20)
        await self.run(f"{place}.select()")
        await self.call("Input.insertText", text=text)

    async def press(self, key: str) -> None:
        text = "\r" if key == "Enter" else ""
        await self.call(
            "Input.dispatchKeyEvent", type="keyDown", key=key, code=key, text=text, windowsVirtualKeyCode=13
        )
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)


@pytest.fixture(scope="module")
def devtools(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Chromium that waits to be driven."""
    profile = tmp_path_factory.mktemp("profile")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
    # The browser of tests/conftest.py is the same program, opened for one picture; here it stays open.
    process = subprocess.Popen([browser._program, *flags], env=browser._environ, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{_port(process, profile / 'DevToolsActivePort')}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def _port(process: subprocess.Popen[bytes], file: Path) -> str:
    def written() -> str:
        assert process.poll() is None, "Chromium ended"
        text = file.read_text() if file.exists() else ""
        return text.partition("\n")[0] if "\n" in text else ""

    return str(asyncio.run(eventually(written, timeout=60)))


@pytest.fixture
async def tab(devtools: str) -> AsyncIterator[Tab]:
    async with httpx.AsyncClient() as client:
        made = (await client.put(f"{devtools}/json/new?about:blank")).json()
    async with connect(made["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
        found = Tab(socket)
        listener = asyncio.create_task(found.listen())
        for domain in ("Page", "Runtime", "Log"):
            await found.call(f"{domain}.enable")
        yield found
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)


@asynccontextmanager
async def serving(folder: Path, *, prefix: str = "") -> AsyncIterator[Served]:
    """Run a router whose pager takes what it gets."""
    async with sink() as hook:
        text = CONFIG.replace("URL", f"{hook.url}/hook")
        options = Options(route_prefix=prefix)
        async with testing.serving(text, database_url=sqlite_url(folder / "ui.db"), options=options) as served:
            yield served


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as served:
        await served.post(
            alert("Down", severity="page", service="shop", summary="40 % of checkouts fail"),
            alert("Slow", severity="warning", service="shop", summary="It takes 4 s"),
            alert("Full", severity="warning", service="db", summary="Full in 4 hours"),
        )
        yield served


def alert(
    name: str, *, summary: str = "", annotations: dict[str, str] | None = None, **labels: str
) -> dict[str, object]:
    return {"labels": {"alertname": name, **labels}, "annotations": {"summary": summary, **(annotations or {})}}


async def test_alerts_are_shown_in_groups_with_who_mutes_them(router: Served, tab: Tab) -> None:
    """What fires, since when, for whom; inhibited ones only when asked for."""
    await tab.open(router.url)
    text = await tab.shows("2 alerts", "Down", "40 % of checkouts fail", "to pager", "Full in 4 hours", 'service="db"')
    assert "It takes 4 s" not in text
    await tab.open(f"{router.url}/#/alerts?inhibited=true")
    await tab.shows("3 alerts", "It takes 4 s", "Inhibited by")
    assert tab.complaints == []


@pytest.mark.parametrize(
    ("address", "shown", "hidden"),
    [
        ("#/alerts?receiver=team%5C.a", "Full", "40 %"),
        ("#/alerts?filter=" + quote('{severity="page"}'), "40 %", "Full"),
        ("#/alerts?receiver=team%5C.a&filter=" + quote('{service=~"d.|x", alertname!="Down"}'), "Full", "40 %"),
        ("#/alerts?silenced=false&inhibited=false&active=true&filter=" + quote('{alertname="Full"}'), "Full", "40 %"),
    ],
)
async def test_alertmanagers_links_lead_where_they_should(
    router: Served, tab: Tab, address: str, shown: str, hidden: str
) -> None:
    """Those in messages, in Grafana and in bookmarks."""
    await tab.open(f"{router.url}/{address}")
    text = await tab.shows("1 alert", shown)
    assert hidden not in text


async def test_texts_of_alerts_stay_texts(router: Served, tab: Tab) -> None:
    """Labels, annotations, comments and links come from anywhere and must not become part of the page."""
    image = "<img src=x onerror=\"document.title='owned'\">"
    evil = {"link_url": "javascript:document.title='owned'", image: SCRIPT, "runbook_url": "javascript:alert(1)"}
    await router.post(
        alert(image, summary=SCRIPT, annotations=evil, severity='x" onclick="y', **{"<b>bold</b>": SCRIPT})
    )
    (found,) = (await router.client.get("/api/v2/alerts", params={"filter": f"summary!={SCRIPT}"})).json()[-1:]
    silence = {
        "matchers": [{"name": "a", "value": SCRIPT, "isRegex": False}],
        "startsAt": found["startsAt"],
        "endsAt": "2099-01-01T00:00:00Z",
        "createdBy": image,
        "comment": SCRIPT,
    }
    assert (await router.client.post("/api/v2/silences", json=silence)).status_code == 200
    fingerprints = [each["fingerprint"] for each in (await router.client.get("/api/v2/alerts")).json()]
    pages = ["#/alerts?inhibited=true", "#/silences", "#/notifications", *(f"#/alert/{each}" for each in fingerprints)]
    pages.append("#/silences/new?" + urlencode({"filter": f'{{a="{SCRIPT}"}}', "comment": SCRIPT, "createdBy": image}))
    for page in pages:
        await tab.open(f"{router.url}/{page}")
        await eventually(tab.text, timeout=20)
        await asyncio.sleep(0.3)  # what would run by itself has had its chance
        made = "document.querySelectorAll('main script, main img, main b, main svg, [onclick], [onerror]').length"
        assert await tab.run(made) == 0, page
        links = "[...document.querySelectorAll('a')].filter(a => a.protocol === 'javascript:').length"
        assert await tab.run(links) == 0, page
        assert "owned" not in str(await tab.run("document.title")).removesuffix(": tocsin").removeprefix(image), page
    assert tab.complaints == []


async def test_a_silence_is_made_changed_and_ended(router: Served, tab: Tab) -> None:
    """With what it will mute in view before it does."""
    await tab.open(router.url)
    await tab.shows("Full in 4 hours")
    await tab.run("[...document.querySelectorAll('main a')].find(a => a.ariaLabel === 'Silence Full').click()")
    await tab.shows("New silence", "It mutes 1 alert that fires now, for team.a.")
    await tab.fill("matchers", 'severity=~"page|warning"')
    await tab.shows("It mutes 3 alerts that fire now, for pager, team.a.")
    await tab.fill("matchers", "severity=~")
    await tab.shows("Not yet matchers: expected a value for severity.")
    await tab.fill("matchers", 'alertname="Full"')
    await tab.fill("duration", "1h30m")
    await tab.fill("by", "ann")
    await tab.fill("comment", "Disk is being grown")
    await tab.shows("It mutes 1 alert")
    await tab.click("Silence them")
    await tab.shows("Silence, active", "by ann", "Disk is being grown", "It matches 1 alert")
    (silence,) = (await router.client.get("/api/v2/silences")).json()
    assert silence["matchers"] == [{"name": "alertname", "value": "Full", "isEqual": True, "isRegex": False}]
    await tab.open(f"{router.url}/#/alerts")
    await tab.shows("1 alert")
    await tab.open(f"{router.url}/#/alerts?silenced=true")
    await tab.shows("2 alerts", "Silenced by ann until", "Disk is being grown")

    await tab.open(f"{router.url}/#/silences/{silence['id']}")
    await tab.click("Change")
    await tab.shows("Change a silence", "It mutes 1 alert")
    await tab.fill("comment", "Nearly done")
    await tab.click("Save")
    await tab.shows("Nearly done", silence["id"])

    await tab.click("Expire now")
    assert (await router.client.get(f"/api/v2/silence/{silence['id']}")).json()["status"]["state"] == "active"
    await tab.click("Press again to expire")
    await tab.shows("Silence, expired")
    await tab.open(f"{router.url}/#/silences?state=expired")
    await tab.shows("expired (1)", "Silence again")


async def test_a_refusal_of_the_router_is_shown_in_the_form(router: Served, tab: Tab) -> None:
    """What it says, and nothing that was written is lost."""
    await tab.open(f"{router.url}/#/silences/new?filter=" + quote('{a=~"(?P<x"}'))
    await tab.fill("by", "ann")
    await tab.fill("comment", "x")
    await tab.click("Silence them")
    await tab.shows("The silence was not saved", "regular expression")
    assert await tab.run("document.getElementById('comment').value") == "x"


async def test_an_acknowledgement_is_made_and_taken_back(router: Served, tab: Tab) -> None:
    """It is not a silence: the alert stays in view, with who is on it."""
    await tab.open(router.url)
    await tab.shows("Down")
    await tab.run("[...document.querySelectorAll('main a')].find(a => a.ariaLabel === 'Acknowledge Down').click()")
    await tab.shows("stops the reminders", "It is about 1 alert")
    await tab.fill("by", "bob")
    await tab.click("Acknowledge")
    await tab.shows("2 alerts", "Acknowledged by bob until", "I am on it")
    await tab.click("Take back")
    await tab.hides("Acknowledged by bob")


async def test_why_says_who_was_told_what(router: Served, tab: Tab) -> None:
    """The route, the group, the receiver's answer."""

    async def delivered() -> bool:
        return any(each["state"] == "delivered" for each in await router.notifications())

    await eventually(delivered)
    await tab.open(router.url)
    await tab.shows("Down")
    await tab.run("[...document.querySelectorAll('main a')].find(a => a.innerText === 'Why?').click()")
    await tab.shows("To pager", 'severity="page"', "webhook", "first notification", "delivered")
    await tab.open(f"{router.url}/#/notifications")
    await tab.shows("pager by webhook", "delivered")
    await tab.open(f"{router.url}/#/alert/0123456789abcdef")
    await tab.shows("This alert is not known")


async def test_it_works_under_a_prefix(tmp_path: Path, tab: Tab) -> None:
    """Every address in it is relative."""
    async with serving(tmp_path, prefix="/alerts/here") as router:
        posted = await router.client.post("/alerts/here/api/v2/alerts", json=[alert("Down", severity="page")])
        assert posted.status_code == 200
        for address in ("/alerts/here/", "/alerts/here"):
            await tab.open(router.url + address)
            await tab.shows("1 alert", "Down")
        await tab.open(f"{router.url}/alerts/here/#/status")
        await tab.shows("Status", "Version", "receiver: team.a")
        assert tab.complaints == []


async def test_the_keyboard_is_enough(router: Served, tab: Tab) -> None:
    """Enter in the filter applies it, and a refresh leaves the focus where it is."""
    await tab.open(router.url)
    await tab.shows("2 alerts")
    await tab.fill("filter", 'alertname="Full"')
    await tab.press("Enter")
    await tab.shows("1 alert", "Full")
    assert "filter=" in await tab.run("location.hash")
    chip = "document.querySelector('main .chips button')"
    await tab.run(f"{chip}.focus(); document.dispatchEvent(new Event('tocsin:changed'))")
    await asyncio.sleep(0.5)
    assert await tab.run(f"document.activeElement === {chip}")
    focusable = (
        "[...document.querySelectorAll('[onclick], .chip, summary')].every(e => e.matches('button, a, summary, span'))"
    )
    assert await tab.run(focusable)


async def test_a_storm_is_counted_and_the_loudest_are_shown(router: Served, tab: Tab) -> None:
    """Ten thousand cards would hold up the browser when it is needed most."""
    await router.post(*(alert("Storm", severity="info", instance=str(number)) for number in range(400)))
    await tab.open(router.url)
    text = await tab.shows("402 alerts", "40 % of checkouts fail", "to team.a, 400 alerts", "first 300 of 402")
    assert text.index("Down") < text.index("Storm")
    await tab.open(f"{router.url}/#/alerts?filter=" + quote('{instance="399"}'))
    await tab.shows("1 alert", 'instance="399"')


async def test_a_router_that_is_away_is_said_and_what_was_shown_stays(tmp_path: Path, tab: Tab) -> None:
    """Old news is marked as old."""
    async with serving(tmp_path) as router:
        await router.post(alert("Down", severity="page"))
        await tab.open(router.url)
        await tab.shows("1 alert")
    await tab.run("document.dispatchEvent(new Event('tocsin:changed'))")
    await tab.shows("The router does not answer", "What is shown is old", "Down")


CONTRAST = """
(() => {
  const channel = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const colour = (text) => text.match(/[\\d.]+/g).map(Number);
  const back = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = colour(getComputedStyle(at).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const weak = [];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.offsetParent || element.matches('.skip, option, noscript, noscript *')) continue;
    const [a, b] = [luminance(colour(getComputedStyle(element).color)), luminance(back(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) weak.push(`${element.tagName}.${element.className} ${ratio.toFixed(2)}`);
  }
  return weak;
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_can_be_read_in_light_and_dark_and_on_a_phone(router: Served, tab: Tab, scheme: str) -> None:
    """Text stands out at 4.5:1 or more (WCAG AA), and nothing is wider than the screen."""
    long = "x" * 200
    await router.post(alert("Long", severity="critical", summary=long, instance=long))
    await tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    await tab.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
    (found,) = [
        each for each in (await router.client.get("/api/v2/alerts")).json() if each["labels"]["alertname"] == "Slow"
    ]
    pages = {
        "#/alerts?inhibited=true&silenced=true": "4 alerts",
        f"#/alert/{found['fingerprint']}": "Inhibited by",
        "#/silences/new?filter=" + quote('{service="shop"}'): "It mutes 2 alerts",
        "#/silences": "No silence is active",
        "#/status": "Configuration",
    }
    for page, words in pages.items():
        await tab.open(f"{router.url}/{page}")
        await tab.shows(words)
        assert await tab.run(CONTRAST) == [], page
        assert await tab.run("document.documentElement.scrollWidth - innerWidth") <= 0, page


async def test_the_files_are_asked_for_again(router: Served) -> None:
    """After an update a browser must not mix files of two versions; and nothing comes from elsewhere."""
    for path in ("/", "/static/main.js", "/static/ui.css"):
        answer = await router.client.get(path)
        assert answer.headers["cache-control"] == "no-cache"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    for file in (Path(ui.__file__).parent / "static").iterdir():
        text = file.read_text()
        assert "innerHTML" not in text
        assert "https://" not in text.replace("https?://", "") or file.suffix == ".svg", file
    assert (await router.client.get("/static/../ui.py")).status_code == 404
