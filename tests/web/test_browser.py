"""The page of `echoic web` in a real browser (headless Chromium, by playwright), against the real
server with a tiny model. ECHOIC_SCREENSHOTS=folder keeps the pictures.

Every test ends with the same questions (fixture `page`): did a script fail, was the content
security policy violated, did a request leave this machine, did anything a file is called run?
"""

from __future__ import annotations

import io
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from echoic.index import Index
from echoic.web.app import create_app
from echoic.web.settings import Limits, Settings
from tests import tiny
from tests.web.serving import serving

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright: pip install playwright"
)

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
UPLOAD_BYTES = 600_000
WAIT_MS = 30_000  # the most, on a busy machine
RUNS = "<img src=x onerror=window.ran=1>"  # as a file is called
TURNS = "\u202egnp.\u202ctxt"
LONG = "long " * 46
VIOLATIONS = """addEventListener('securitypolicyviolation', (event) => {
  (window.violated ??= []).push(event.violatedDirective);
});"""
TOOLS = ("search", "tag", "captions", "compare", "map")


def _chromium() -> str:
    named = os.environ.get("ECHOIC_CHROMIUM")
    found = [named] if named else [path for name in BROWSERS if (path := shutil.which(name))]
    if not found:
        pytest.skip("needs Chromium: install one, or set ECHOIC_CHROMIUM to its path")
    return found[0]


def wav(seconds: float, hz: float = 440.0) -> bytes:
    file = io.BytesIO()
    sf.write(file, tiny.tone(hz, seconds), tiny.RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def given(name: str, content: bytes) -> dict[str, object]:
    return {"name": name, "mimeType": "audio/wav", "buffer": content}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("field")
    tones = {"near/dog.wav": 300, "near/bell.wav": 900, "far/rain.wav": 2000, "far/wind.wav": 120}
    names = [*tones, f"far/{RUNS}.wav", f"near/{TURNS}.wav", f"near/{LONG}.wav"]
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(wav(1 + 0.1 * i, tones.get(name, 500 + 50 * i)))
    steps = np.concatenate([tiny.noise(4, 1), tiny.tone(700, 4), tiny.noise(4, 2)])
    sf.write(folder / "walk.wav", steps, tiny.RATE)
    return folder


@pytest.fixture(scope="module")
def address(folder):
    """Where the server answers, on a port that is free."""
    model = tiny.captioner(max_s=4.0)
    with Index.open(folder, model=model) as index:
        index.update()
    settings = Settings(limits=Limits(upload_bytes=UPLOAD_BYTES), model_name="tiny")
    app = create_app(model, folder, settings)
    with serving(app) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    path = _chromium()
    options = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=path, args=options)
        yield made
        made.close()


class Watched:
    """What a page did that it should not have."""

    def __init__(self, page, address: str) -> None:
        self.outside: list[str] = []
        self.errors: list[str] = []
        self.expected = re.compile("(?!)")  # what the server is made to refuse in this test
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._console)
        page.on("request", lambda request: self._request(request.url, address))
        page.on("dialog", lambda dialog: self.errors.append(f"dialog: {dialog.message}"))

    def _console(self, message) -> None:
        if message.type in ("error", "warning") and not self.expected.search(message.text):
            self.errors.append(message.text)

    def _request(self, url: str, address: str) -> None:
        if not url.startswith((f"{address}/", "blob:")):
            self.outside.append(url)


@pytest.fixture(scope="module")
def context_of(browser):
    """A context for these options, the same one for the same options: a new one takes a second."""
    made = {}

    def call(width=1280, height=860, script="", **options):
        key = str((width, height, script, options))
        if key not in made:
            made[key] = browser.new_context(
                viewport={"width": width, "height": height}, reduced_motion="reduce", **options
            )
            made[key].set_default_timeout(WAIT_MS)
            made[key].add_init_script(f"{VIOLATIONS}\n{script}")
        return made[key]

    return call


@pytest.fixture
def open_page(context_of, address):
    """A page of a session of its own; at the end, what it did."""
    opened = []

    def call(**options):
        page = context_of(**options).new_page()
        page.watched = Watched(page, address)
        page.goto(address)
        page.wait_for_selector("body.is-ready")
        opened.append(page)
        return page

    yield call
    for page in opened:
        done = page.evaluate("[window.violated ?? null, window.ran ?? null]")
        page.evaluate("localStorage.clear()")
        page.context.clear_cookies()
        page.close()
        assert done == [None, None]
        assert page.watched.outside == []
        assert page.watched.errors == []


@pytest.fixture
def page(open_page):
    return open_page()


@pytest.fixture
def picture(tmp_path):
    """Keeps what a page looks like."""
    to = Path(os.environ.get("ECHOIC_SCREENSHOTS") or tmp_path)

    def call(page, name: str, *, whole: bool = True) -> None:
        to.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(to / f"{name}.png"), full_page=whole)

    return call


def search(page, words: str = "a dog barks") -> None:
    page.fill("#words", words)
    page.keyboard.press("Enter")
    told(page, "#search-told", f"“{words}”")


def until(page, asked, arg: object = None) -> None:
    """Asked again and again, a function of the page or of ours: wait_for_function needs eval, which
    the policy forbids."""
    ends_s = time.monotonic() + WAIT_MS / 1000
    while not (asked() if callable(asked) else page.evaluate(asked, arg)):
        assert time.monotonic() < ends_s, f"never came true: {asked}"
        page.wait_for_timeout(30)


def told(page, where: str, words: str) -> None:
    sync_api.expect(page.locator(where)).to_contain_text(words, timeout=WAIT_MS)


def plays(page, from_s: float = 0.01) -> None:
    until(page, "(s) => Number(document.getElementById('player-seek').value) >= s", from_s)


def focused(page) -> str:
    return page.evaluate("document.activeElement.getAttribute('aria-label')")


def add(page, *files) -> None:
    have = page.locator("#given .play").count()
    page.set_input_files("#files", list(files))
    sync_api.expect(page.locator("#given .play")).to_have_count(have + len(files), timeout=WAIT_MS)


def tool(page, name: str) -> None:
    page.click(f'nav a[href="#{name}"]')
    page.wait_for_selector(f"#view-{name}:not([hidden])")


# -- search ----------------------------------------------------------------------------------------


def test_words_find_hits_that_play(page, picture):
    search(page)
    hits = page.locator(".hit")
    assert hits.count() == 8
    scores = [float(text) for text in hits.locator(".score").evaluate_all(
        "all => all.map((each) => each.textContent.replace('score ', ''))")]  # fmt: skip
    assert scores == sorted(scores, reverse=True)
    walk = page.locator(".hit", has_text="walk.wav").locator(".play")  # the longest
    walk.click()
    plays(page)
    assert walk.get_attribute("aria-label") == "Pause walk.wav"
    assert page.locator("#player-name").inner_text() == "walk.wav"
    assert page.locator("#heard").inner_text() == "Playing walk.wav"
    assert page.locator(".hit.is-current").count() == 1
    walk.click()
    sync_api.expect(walk).to_have_attribute("aria-label", "Play walk.wav")
    picture(page, "hits-light-wide", whole=False)


def test_moments_of_a_long_recording_play_from_there(page):
    search(page)
    walk = page.locator(".hit", has_text="walk.wav")
    walk.scroll_into_view_if_needed()
    moments = walk.locator(".moment")
    assert moments.count() >= 2
    last = moments.last
    from_s = [int(part) for part in last.inner_text().split(":")]
    last.click()
    plays(page, 60 * from_s[0] + from_s[1])
    until(  # the marks are painted: orange, at the foot
        page,
        """() => { const canvas = [...document.querySelectorAll('.hit')]
             .find((hit) => hit.textContent.includes('walk.wav')).querySelector('canvas');
           const row = canvas.getContext('2d')
             .getImageData(0, canvas.height - 1, canvas.width, 1).data;
           for (let i = 0; i < row.length; i += 4)
             if (row[i] > 150 && row[i + 2] < 80 && row[i + 3] > 200) return true;
           return false; }""",
    )


def test_the_keyboard_is_enough(page):
    page.keyboard.press("Escape")
    page.click("h2 >> nth=0")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "words"
    page.keyboard.type("rain / wind")  # here a stroke is a stroke
    page.keyboard.press("Enter")
    told(page, "#search-told", "“rain / wind”")
    labels = page.locator(".hit .play").evaluate_all("all => all.map((b) => b.ariaLabel)")
    page.keyboard.press("ArrowDown")
    assert focused(page) == labels[0]
    page.keyboard.press("ArrowDown")
    assert focused(page) == labels[1]
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Space")
    plays(page)
    assert focused(page) == labels[1].replace("Play", "Pause")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.id") == "words"
    page.keyboard.press("Escape")
    assert page.locator("#player").is_hidden()
    assert page.input_value("#words") == "rain / wind"
    page.click("h2 >> nth=0")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#keys").is_hidden()


def test_what_is_asked_is_what_was_filled_in(page):
    add(page, given("mine.wav", wav(1.0)))
    page.fill("#words", "a bell")
    page.fill("#without", "rain, wind")
    page.select_option("#like", label="mine.wav")
    page.fill("#balance", "25")
    page.click("#filters summary")
    page.fill("#folder", "near")
    page.fill("#formats", "wav, flac")
    page.fill("#longest", "9.5")
    page.fill("#after", "2001-02-03")
    assert page.locator("#filter-count").inner_text() == "4 filters"
    with page.expect_request("**/api/search") as request:
        page.click("#search-go")
    asked = request.value.post_data_json
    assert re.fullmatch("[0-9a-f]+", asked.pop("sound"))
    assert asked == {
        "text": "a bell", "without": ["rain", "wind"], "text_weight": 1.5, "sound_weight": 0.5,
        "folder": "near", "formats": ["wav", "flac"], "longest_s": 9.5, "after": "2001-02-03",
        "top": 20,
    }  # fmt: skip
    told(page, "#search-told", "filters")
    assert set(page.locator(".hit .facts .link").all_inner_texts()) == {"near"}
    page.click("#clear-filters")
    assert page.input_value("#folder") == ""


def test_more_like_a_hit(page):
    search(page)
    hit = page.locator(".hit").nth(2)
    name = hit.locator("h3").inner_text()
    hit.get_by_role("button", name="More like this").click()
    told(page, "#search-told", "that sound")
    assert page.locator(".hit h3").first.inner_text() == name  # nothing is more like it
    assert page.input_value("#words") == ""


def test_an_error_stands_where_it_arose_and_loses_nothing(page, picture):
    page.watched.expected = re.compile("Failed to load resource")
    search(page)
    page.route("**/api/search", lambda route: route.abort())
    page.fill("#words", "something else")
    page.click("#search-go")
    page.wait_for_selector("#search-wrong:not([hidden])")
    assert "No answer from the server" in page.locator("#search-wrong").inner_text()
    assert page.input_value("#words") == "something else"
    assert page.locator(".hit").count() == 8
    picture(page, "error-light-wide", whole=False)
    page.unroute("**/api/search")
    page.route(
        "**/api/search",
        lambda route: route.fulfill(status=503, json={"error": f"too busy {RUNS}"}),
    )
    page.click("#search-go")
    told(page, "#search-wrong", f"too busy {RUNS}")
    page.unroute("**/api/search")
    page.click("#search-go")
    told(page, "#search-told", "something else")
    assert page.locator("#search-wrong").is_hidden()
    page.fill("#words", "")
    page.click("#search-go")
    told(page, "#search-wrong", "Type what you look for")


# -- your sounds -----------------------------------------------------------------------------------


def test_sounds_are_added_refused_and_removed(page, picture):
    page.watched.expected = re.compile("status of 4")
    add(page, given("mine.wav", wav(1.5)), given(f"{RUNS} {TURNS} {LONG}.wav", wav(1.0)))
    page.set_input_files("#files", [given("notes.wav", b"no sound at all")])
    page.wait_for_selector(".refused")
    assert page.locator(".refused [role=alert]").inner_text()
    assert page.locator(".refused").get_by_role("button", name="Try again").count() == 0
    sent = []
    page.on("request", lambda request: sent.append(request.method))
    page.set_input_files("#files", [given("big.wav", bytes(UPLOAD_BYTES + 1))])
    told(page, "#given", "more than this server takes")
    assert "POST" not in sent  # not sent to be refused
    picture(page, "sounds-light-wide")
    for _ in range(2):
        page.get_by_role("button", name="Dismiss").first.click()
    page.get_by_role("button", name="Remove mine.wav").click()
    sync_api.expect(page.locator("#given li")).to_have_count(1)
    page.reload()
    page.wait_for_selector("body.is-ready")  # of this session: still there
    assert page.locator("#given li").count() == 1
    page.context.clear_cookies()  # as when the session has ended
    page.get_by_role("button", name="Remove").click()
    sync_api.expect(page.locator("#given li")).to_have_count(0)
    assert page.locator("#shelf-wrong").is_hidden()


def test_a_failed_upload_can_be_tried_again(page):
    page.watched.expected = re.compile("Failed to load resource")
    held = []
    page.route("**/api/sounds", lambda route: held.append(route))
    page.set_input_files("#files", [given("mine.wav", wav(1.0))])
    assert page.get_by_role("progressbar", name="Sending mine.wav").is_visible()
    until(page, lambda: held)
    held.pop().abort()
    page.wait_for_selector(".refused")
    page.unroute("**/api/sounds")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector("#given .play")
    assert page.locator(".refused").count() == 0


def test_files_are_dropped_anywhere(page):
    page.evaluate(
        """(bytes) => {
          const held = new DataTransfer();
          held.items.add(new File([new Uint8Array(bytes)], 'dropped.wav'));
          const send = (kind) => document.querySelector('h2').dispatchEvent(
            new DragEvent(kind, { dataTransfer: held, bubbles: true, cancelable: true }));
          send('dragenter');
          window.veiled = !document.getElementById('veil').hidden;
          send('drop');
        }""",
        list(wav(0.5)),
    )
    assert page.evaluate("window.veiled")
    page.wait_for_selector("#given .play")
    assert page.locator("#given .name").inner_text() == "dropped.wav"
    assert page.locator("#veil").is_hidden()


def test_what_did_not_play_can_be_played_again(page):
    page.watched.expected = re.compile("Failed to load resource")
    add(page, given("mine.wav", wav(4.0)))
    page.route("**/audio", lambda route: route.abort())
    play = page.locator("#given .play")
    play.click()
    told(page, "#player-wrong", "mine.wav does not play")
    page.unroute("**/audio")
    play.click()
    plays(page)
    assert page.locator("#player-wrong").is_hidden()


def test_a_microphone_that_is_unplugged_ends_the_recording(open_page):
    page = open_page(
        script="""
      const ask = MediaDevices.prototype.getUserMedia;
      MediaDevices.prototype.getUserMedia = async function (...asked) {
        window.asked = (window.asked ?? 0) + 1;
        return (window.stream = await ask.apply(this, asked));
      };"""
    )
    page.dblclick("#record")
    told(page, "#record-time", "0:01")
    assert page.evaluate("window.asked") == 1
    page.evaluate("window.stream.getTracks().forEach((track) => track.stop())")
    page.evaluate("window.stream.getTracks().forEach((t) => t.dispatchEvent(new Event('ended')))")
    page.wait_for_selector("#given .play")
    assert page.locator("#record").inner_text() == "Record"


def test_the_microphone_is_recorded(page):
    page.click("#record")
    told(page, "#record-time", "0:01")
    page.click("#record")
    page.wait_for_selector("#given .play")
    assert re.fullmatch(r"recording [\d-]+\.wav", page.locator("#given .name").inner_text())


def test_without_a_microphone_the_page_says_so(open_page):
    page = open_page(script="Object.defineProperty(navigator, 'mediaDevices', {value: undefined});")
    assert page.locator("#record").is_disabled()
    assert "cannot record" in page.locator("#record-note").inner_text()


# -- tag, caption, compare, map --------------------------------------------------------------------


def test_tags_over_time(page, picture):
    tool(page, "tag")
    add(page, given("mine.wav", wav(4.0)))  # the first one is chosen
    page.click("#tag-go")
    told(page, "#tag-wrong", "Say which labels")
    page.fill("#labels", f"a dog, rain\n{RUNS}, dog bark; rain")
    page.fill("#threshold", "0.2")
    page.click("#tag-go")
    told(page, "#tag-told", "in 4 s")
    assert page.locator(".lane-name bdi").all_inner_texts() == ["a dog", "rain", RUNS, "dog bark"]
    rows = page.locator("#timeline tbody tr")
    assert rows.count() >= 1
    page.locator(".lane").first.click(position={"x": 300, "y": 10})
    plays(page)
    assert page.locator("#timeline .head").is_visible()
    slider = page.get_by_role("slider", name="Waveform of mine.wav")
    slider.focus()
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    plays(page)
    picture(page, "tag-light-wide")
    rows.first.get_by_role("button").click()
    plays(page)


def test_captions_with_their_times(page, picture):
    tool(page, "captions")
    page.click("#caption-go")
    told(page, "#caption-wrong", "Choose a sound first")
    add(page, given("mine.wav", wav(6.0)))
    page.click("#caption-go")
    page.wait_for_selector("blockquote")
    assert page.locator("#heard").inner_text() == page.locator("blockquote").inner_text()
    lines = page.locator(".captions .time")
    assert lines.count() >= 2  # the tiny model hears 4 s at once
    lines.last.click()
    plays(page)
    picture(page, "captions-light-wide")


def test_two_sounds_are_compared(page, picture):
    tool(page, "compare")
    add(page, given("one.wav", wav(1.0)), given("two.wav", wav(1.2, 2000)))
    chosen = [page.locator(f"#compare-{side} option:checked").text_content() for side in ("a", "b")]
    assert chosen == ["one.wav", "two.wav"]
    page.select_option("#compare-b", label="one.wav")
    page.click("#compare-go")
    page.wait_for_selector(".cosine")
    assert page.locator(".cosine b").inner_text() == "1.000"
    told(page, "#heard", "cosine 1.000")
    page.select_option("#compare-b", label="two.wav")
    page.click("#compare-go")
    sync_api.expect(page.locator(".cosine b")).not_to_have_text("1.000")
    assert page.locator(".one .wave").count() == 2
    picture(page, "compare-light-wide")


def test_hits_are_handed_to_the_tools(page):
    search(page)
    for number in (0, 1):
        tool(page, "search")
        page.locator(".hit").nth(number).get_by_role("button", name="Compare").click()
    page.wait_for_selector(".cosine")
    assert page.url.endswith("#compare")
    page.go_back()
    page.wait_for_selector("#view-search:not([hidden])")
    assert page.locator(".hit").count() == 8


def test_the_map(page, picture):
    tool(page, "map")
    told(page, "#map-told", "8 sounds")
    page.focus("#map")
    page.keyboard.press("ArrowRight")
    assert page.locator("#map-tip").is_visible()
    first = page.locator("#map-tip .name").inner_text()
    assert first in page.locator("#heard").inner_text()
    moved = set()
    for key in ("ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
        moved.add(page.locator("#map-tip .name").inner_text())
    assert len(moved | {first}) > 1
    page.keyboard.press("+")
    page.keyboard.press("Space")
    plays(page)
    assert page.locator("#player-name").inner_text() == page.locator("#map-tip .name").inner_text()
    picture(page, "map-light-wide")
    keys = page.locator("#map-legend button")
    assert keys.count() == 3
    keys.first.click()
    assert keys.first.get_attribute("aria-pressed") == "false"
    page.click("#map-box summary")
    assert page.locator("#map-rows tr").count() == 8
    page.fill("#map-find", "walk")
    assert page.locator("#map-rows tr").count() == 1


# -- how it looks, and for whom --------------------------------------------------------------------


def test_names_of_files_are_only_text(page):
    search(page)
    names = page.locator(".hit h3").all_inner_texts()
    assert f"{RUNS}.wav" in names
    assert any(name.startswith("\ufffdgnp.") for name in names)  # it turns nothing round
    assert not any("\u202e" in name for name in names)
    tool(page, "map")
    told(page, "#map-told", "8 sounds")
    assert page.locator("img, iframe, main script").count() == 0
    assert page.evaluate("document.querySelectorAll('[style*=url], [onerror]').length") == 0


def test_dark_and_light(open_page, picture):
    def paper(page) -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    page = open_page(color_scheme="dark")
    assert paper(page) == "rgb(20, 24, 28)"
    search(page)
    picture(page, "hits-dark-wide", whole=False)
    page.get_by_role("button", name="Dark colours").click()
    assert paper(page) == "rgb(252, 252, 250)"
    page.reload()
    page.wait_for_selector("body.is-ready")
    assert paper(page) == "rgb(252, 252, 250)"
    assert page.get_by_role("button", name="Dark colours").get_attribute("aria-pressed") == "false"


def test_a_phone_shows_all_of_it(open_page, picture):
    page = open_page(width=360, height=740, color_scheme="dark", has_touch=True, is_mobile=True)
    add(page, given(f"{RUNS}{LONG}.wav", wav(4.0)), given("x" * 220 + ".wav", wav(1.0)))
    search(page)
    for name in TOOLS:
        tool(page, name)
        if name == "tag":
            page.select_option("#tag-sound", index=1)
            page.fill("#labels", f"rain, {'dog' * 40}")
            page.click("#tag-go")
            told(page, "#tag-told", "in 4 s")
        if name == "compare":
            page.select_option("#compare-a", index=1)
            page.select_option("#compare-b", index=2)
            page.click("#compare-go")
            page.wait_for_selector(".cosine")
        if name == "map":
            told(page, "#map-told", "8 sounds")
        wide = page.evaluate("document.documentElement.scrollWidth")
        picture(page, f"{name}-dark-phone")
        assert wide == 360, name
    tool(page, "search")
    small = page.evaluate(  # a finger's room, in height: WCAG 2.2, 2.5.8
        """[...document.querySelectorAll('button, select, nav a, summary')]
           .filter((e) => e.offsetParent && !e.closest('[hidden]'))
           .filter((e) => e.getBoundingClientRect().height < 24).map((e) => e.outerHTML)"""
    )
    assert small == []


NAMELESS = """
  () => [...document.querySelectorAll(
      'a, button, input, select, textarea, canvas[tabindex], [role=slider], [role=region]')]
    .filter((e) => !e.closest('[hidden]'))
    .filter((e) => {
      const said = e.getAttribute('aria-label') || e.textContent.trim()
        || document.getElementById(e.getAttribute('aria-labelledby'))?.textContent;
      const field = e.matches('input, select, textarea');
      return field ? !(e.labels?.length || e.getAttribute('aria-label')) : !said;
    }).map((e) => e.outerHTML)
"""
TWICE = """
  () => { const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
          return ids.filter((id, i) => ids.indexOf(id) !== i); }
"""
DANGLING = """
  () => ['for', 'aria-labelledby', 'aria-describedby'].flatMap((name) =>
    [...document.querySelectorAll(`[${name}]`)].filter((e) =>
      e.getAttribute(name).split(' ').some((id) => !document.getElementById(id)))
    .map((e) => e.outerHTML))
"""


def test_everything_has_a_name_and_its_place(page):
    add(page, given("mine.wav", wav(4.0)))
    search(page)
    for name in TOOLS:
        tool(page, name)
        if name == "map":
            told(page, "#map-told", "8 sounds")
        assert page.evaluate(NAMELESS) == [], name
        assert page.evaluate(TWICE) == []
        assert page.evaluate(DANGLING) == []
        assert page.locator("h1").count() == 1
        assert page.locator(f"#view-{name} h2").evaluate("(h) => h === document.activeElement")
        assert page.title().endswith("· echoic")
    for role in ("banner", "main", "navigation", "complementary", "contentinfo"):
        assert page.get_by_role(role).count() == 1, role
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.locator("[tabindex]:not([tabindex='0']):not([tabindex='-1'])").count() == 0


def test_the_focus_goes_through_the_page_in_its_order(page):
    search(page)
    page.focus(".skip")
    order = ["#main"]
    for _ in range(24):
        page.keyboard.press("Tab")
        order.append(page.evaluate(
            "(() => { const e = document.activeElement;"
            " return e.id || e.getAttribute('href') || e.className.split(' ')[0]; })()"
        ))  # fmt: skip
    wanted = ["#main", *(f"#{name}" for name in TOOLS), "help", "theme", "words", "search-go"]
    assert order[: len(wanted)] == wanted
    assert order.index("without") < order.index("filter-count") < order.index("play")


def test_the_link_past_the_header_stays_with_the_tool(page):
    tool(page, "compare")
    page.focus(".skip")
    page.keyboard.press("Enter")
    heading = page.locator("#view-compare h2")
    until(page, lambda: heading.evaluate("(h) => h === document.activeElement"))
    assert page.locator("#view-compare").is_visible()
    assert page.url.endswith("#compare")


def test_an_address_that_names_no_tool_shows_the_first(page):
    page.evaluate("location.hash = '#constructor'")
    page.reload()
    page.wait_for_selector("body.is-ready")
    assert page.locator("#view-search").is_visible()


CONTRAST = """
  () => {
    const probe = document.body.appendChild(document.createElement('i'));
    const light = (name) => {
      probe.style.color = `var(--${name})`;
      const parts = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3)
        .map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
      return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
    };
    return (pairs) => pairs.map(([one, other]) => {
      const [a, b] = [light(one), light(other)].sort((x, y) => y - x);
      return [one, other, (a + 0.05) / (b + 0.05)];
    });
  }
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_told_apart(open_page, scheme):
    page = open_page(color_scheme=scheme)
    papers = ("paper", "card", "wash")
    words = [(ink, on) for ink in ("ink", "soft", "link", "wrong") for on in papers]
    words += [("on-strong", "strong"), ("wrong", "wrong-wash")]
    marks = [(f"s{i}", on) for i in range(8) for on in papers]
    marks += [("edge", on) for on in papers] + [("wave", "paper")]
    for pairs, least in ((words, 4.5), (marks, 3.0)):
        ratios = page.evaluate(f"(pairs) => ({CONTRAST})()(pairs)", pairs)
        assert len(ratios) == len(pairs)
        assert [found for found in ratios if found[2] < least] == []


def test_what_this_server_has_not_is_said(page):
    def less(route) -> None:
        info = route.fetch().json()
        info["model"].update(captions=False)
        route.fulfill(json=info | {"index": None})

    page.route("**/api/info", less)
    page.reload()
    page.wait_for_selector("body.is-ready")
    assert "No folder is indexed" in page.locator("#no-index").inner_text()
    assert page.locator("#search-go").is_disabled()
    add(page, given("mine.wav", wav(4.0)))
    assert page.locator("#given .actions button:visible").all_inner_texts() == ["Tag", "Compare"]
    tool(page, "captions")
    assert "writes no captions" in page.locator("#no-captions").inner_text()
    assert page.locator("#caption-go").is_disabled()
    tool(page, "map")
    told(page, "#map-told", "A map needs an index")
    page.locator("#given").get_by_role("button", name="Tag").click()  # still works
    page.keyboard.type("rain, wind")
    page.click("#tag-go")
    told(page, "#tag-told", "in 4 s")


def test_a_page_without_its_server_says_so(open_page, address):
    page = open_page()
    page.watched.expected = re.compile("Failed to load resource")
    page.route("**/api/info", lambda route: route.abort())
    page.reload()
    page.wait_for_selector("#start-wrong:not([hidden])")
    assert "No answer from the server" in page.locator("#start-wrong").inner_text()
    page.unroute("**/api/info")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector("body.is-ready")
