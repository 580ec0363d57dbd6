"""The page in a real browser: what a person does, sees and reads aloud."""

import http.server
import json
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402 (after the skip)
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
SHOTS = os.environ.get("COREFACE_SCREENSHOTS")  # a folder, to look at the page


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser without a window, with a profile of its own."""
    if not BROWSER or not DRIVER:
        pytest.skip("there is no chromium with its chromedriver on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for word in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update"),
        *("disable-sync", "disable-dev-shm-usage", f"user-data-dir={tmp_path_factory.mktemp('profile')}"),
        *("use-fake-device-for-media-stream", "use-fake-ui-for-media-stream"),
    ):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_window_size(1100, 900)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def files(jpeg, tmp_path_factory):
    """Photographs to choose."""
    folder = tmp_path_factory.mktemp("photographs")
    for name, content in {
        "one": jpeg(4),
        "same": jpeg(4, 3),
        "other": jpeg(8, 1),
        "nobody": jpeg(None),
        "text": b"this is no image",
    }.items():
        (folder / f"{name}.jpg").write_bytes(content)
    return folder


def opened(browser, server, place=""):
    browser.get("about:blank")
    browser.get_log("browser")  # what was said before is of no interest
    browser.get(f"{server.url}/{place}")
    wait(browser, lambda: browser.find_element(By.TAG_NAME, "html").get_attribute("data-ready"))


def wait(browser, condition):
    return WebDriverWait(browser, 60).until(lambda _: condition())


def shot(browser, name):
    if SHOTS:
        browser.save_screenshot(str(Path(SHOTS) / f"{name}.png"))


def choose(browser, photo, path):
    browser.find_element(By.ID, f"file-{photo}").send_keys(str(path))


def press(browser, key):
    ActionChains(browser).send_keys(key).perform()


def compare(browser, files, a, b):
    choose(browser, "a", files / f"{a}.jpg")
    choose(browser, "b", files / f"{b}.jpg")
    button = browser.find_element(By.ID, "compare-button")
    wait(browser, button.is_enabled)
    button.click()
    result = browser.find_element(By.ID, "compare-result")
    wait(browser, lambda: result.text and "Comparing" not in result.text)
    return result


def complaints(browser):
    return [line["message"] for line in browser.get_log("browser") if "422" not in line["message"]]


def test_two_photographs_are_compared(browser, server, files):
    opened(browser, server)
    result = compare(browser, files, "one", "same")
    assert "probably the same person" in result.text
    assert "1 in 1,000 pairs of different people would be called a match by mistake" in result.text
    scale = result.find_element(By.CSS_SELECTOR, "svg.scale")
    assert "at or above the threshold" in scale.get_attribute("aria-label")
    assert len(scale.find_elements(By.TAG_NAME, "polygon")) == 2
    labels = [
        canvas.get_attribute("aria-label") for canvas in browser.find_elements(By.CSS_SELECTOR, "#compare canvas")
    ]
    assert labels == ["First photograph, one face marked", "Second photograph, one face marked"]
    shot(browser, "compare-match")
    result = compare(browser, files, "one", "other")
    assert "probably different people" in result.text
    assert "below the threshold" in result.find_element(By.CSS_SELECTOR, "svg.scale").get_attribute("aria-label")
    shot(browser, "compare-no-match")
    assert complaints(browser) == []


def test_errors_are_said_in_plain_words_with_the_photograph(browser, server, files):
    opened(browser, server)
    assert "Second photograph: no face was found" in compare(browser, files, "one", "nobody").text
    shot(browser, "compare-no-face")
    assert "First photograph: the file cannot be read as an image" in compare(browser, files, "text", "one").text
    shot(browser, "compare-wrong-file")
    assert "probably the same person" in compare(browser, files, "one", "same").text  # and it goes on


def test_it_works_with_the_keyboard_alone(browser, server, files):
    opened(browser, server)
    reached = []
    for _ in range(20):
        press(browser, Keys.TAB)
        now = browser.switch_to.active_element
        reached.append(now.get_attribute("id") or now.get_attribute("aria-label") or now.text)
        if "fmr" in reached:
            break
    assert reached[0] == "Skip to the content"
    for wanted in ("file-a", "First photograph: use the camera", "file-b", "fmr"):
        assert wanted in reached
    choose(browser, "a", files / "one.jpg")
    choose(browser, "b", files / "same.jpg")
    button = browser.find_element(By.ID, "compare-button")
    wait(browser, button.is_enabled)
    browser.execute_script("document.getElementById('fmr').focus()")
    press(browser, Keys.TAB)
    assert browser.switch_to.active_element == button
    press(browser, Keys.ENTER)
    wait(browser, lambda: "same person" in browser.find_element(By.ID, "compare-result").text)


def test_the_camera_takes_a_photograph(browser, server):
    opened(browser, server)
    browser.find_element(By.CSS_SELECTOR, "[aria-label='First photograph: use the camera']").click()
    wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, ".photo video"))
    video = browser.find_element(By.CSS_SELECTOR, ".photo video")
    wait(browser, lambda: int(video.get_property("videoWidth")) > 0)
    browser.find_element(By.XPATH, "//button[text()='Take the photograph']").click()
    canvas = browser.find_element(By.CSS_SELECTOR, "[data-photo=a] canvas")
    wait(browser, canvas.is_displayed)
    assert not browser.find_elements(By.CSS_SELECTOR, ".photo video")


def test_it_fits_a_telephone_and_the_dark(browser, server, files):
    opened(browser, server)
    try:
        for width, height in ((360, 740), (320, 640)):
            browser.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True},
            )
            compare(browser, files, "one", "same")
            for name in ("compare", "identify", "people", "about"):
                browser.execute_script(f"location.hash = '{name}'")
                wait(browser, browser.find_element(By.ID, name).is_displayed)
                assert browser.execute_script("return document.documentElement.scrollWidth") <= width, name
                shot(browser, f"telephone-{width}-{name}")
            browser.execute_script("location.hash = 'compare'")
        features = [{"name": "prefers-color-scheme", "value": "dark"}]
        light = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") != light
        shot(browser, "telephone-dark")
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_about_says_what_is_known_and_what_is_not(browser, server):
    opened(browser, server, "#about")
    text = browser.find_element(By.ID, "about").text
    assert "no liveness check" in text
    assert "sface" in text
    assert "1 in 1,000" in text
    shot(browser, "about")


def test_it_loads_nothing_from_elsewhere_and_keeps_nothing(browser, server, files):
    opened(browser, server)
    compare(browser, files, "one", "same")
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert loaded
    assert all(name.startswith((server.url, "blob:" + server.url)) for name in loaded)
    kept = browser.execute_script("return [localStorage.length, sessionStorage.length, document.cookie]")
    assert kept == [0, 0, ""]


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """A page of another origin."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>elsewhere</title>")

    def log_message(self, *_):
        pass


def test_a_page_of_another_origin_gets_nothing(browser, new_server):
    """What its script sends either stays in the browser or is refused by the service."""
    server = new_server()
    page = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=page.serve_forever, daemon=True).start()
    program = """
        const done = arguments[arguments.length - 1];
        const url = arguments[0];
        const post = {method: "POST", body: new FormData()};
        const tries = [
          fetch(url + "/v1/info"),
          fetch(url + "/v1/info", {mode: "no-cors"}),
          fetch(url + "/v1/detect", post),
          fetch(url + "/v1/detect", {...post, mode: "no-cors"}),
          fetch(url + "/v1/detect", {...post, headers: {"X-Coreface": "1"}}),
        ];
        Promise.allSettled(tries).then(all => done(all.map(one => one.status)));
    """
    try:
        browser.get(f"http://127.0.0.1:{page.server_port}/")
        found = browser.execute_async_script(program, server.url)
    finally:
        page.shutdown()
        page.server_close()
    assert found == ["rejected"] * 5
    server.stop()
    statuses = [json.loads(line[line.index("{") :])["status"] for line in server.lines if '"route"' in line]
    assert len(statuses) >= 4  # they have reached the service
    assert set(statuses) == {403}


def test_a_key_is_asked_for_and_forgotten(browser, new_server, keys, files):
    path, by_role = keys
    server = new_server("--keys", str(path))
    opened(browser, server)
    field = browser.find_element(By.ID, "key")
    wait(browser, field.is_displayed)
    shot(browser, "key")
    field.send_keys("cfk_wrong", Keys.ENTER)
    message = browser.find_element(By.ID, "service-message")
    wait(browser, lambda: "does not know this key" in message.text)
    field.send_keys(by_role["read"], Keys.ENTER)
    wait(browser, lambda: not field.is_displayed())
    assert "probably the same person" in compare(browser, files, "one", "same").text
    assert by_role["read"] not in browser.page_source
    opened(browser, server)
    wait(browser, browser.find_element(By.ID, "key").is_displayed)


def test_a_service_that_has_gone_is_said(browser, new_server, files):
    server = new_server()
    opened(browser, server)
    server.stop(signal.SIGKILL)
    assert "cannot be reached" in compare(browser, files, "one", "same").text


def section(browser, server, name):
    opened(browser, server, f"#{name}")
    wait(browser, browser.find_element(By.ID, name).is_displayed)


def enrol(browser, name, *paths):
    browser.execute_script("document.getElementById('enrol-form').reset()")  # files are kept after a failure
    browser.find_element(By.ID, "person-name").send_keys(name)
    browser.find_element(By.ID, "person-images").send_keys("\n".join(str(path) for path in paths))
    browser.find_element(By.CSS_SELECTOR, "#enrol-form button[type=submit]").click()
    result = browser.find_element(By.ID, "enrol-result")
    wait(browser, lambda: result.text and "Enrolling" not in result.text)
    return result


def identify(browser, server, path):
    section(browser, server, "identify")
    choose(browser, "probe", path)
    button = browser.find_element(By.ID, "identify-button")
    wait(browser, button.is_enabled)
    button.click()
    result = browser.find_element(By.ID, "identify-result")
    wait(browser, lambda: result.text and "Searching" not in result.text)
    return result.text


def listed(browser):
    # In one step: the page may draw the list again between finding an element and reading it.
    return browser.execute_script("return [...document.querySelectorAll('#people-list strong')].map(e => e.innerText)")


def test_people_are_enrolled_found_and_forgotten(browser, new_server, files, jpeg):
    server = new_server()
    for person in (4, 8, 12):
        for image in (0, 3):
            (files / f"p{person}-{image}.jpg").write_bytes(jpeg(person, image))
    section(browser, server, "people")
    wait(browser, lambda: "Nobody is enrolled yet" in browser.find_element(By.ID, "people-note").text)
    text = enrol(browser, "Alice <b>", files / "p4-0.jpg", files / "nobody.jpg", files / "p4-3.jpg").text
    assert "Alice <b> is enrolled with 2 photographs" in text
    assert "nobody.jpg: no face was found" in text
    assert "is enrolled" in enrol(browser, "Bob", files / "p8-0.jpg").text
    assert "is enrolled" in enrol(browser, "Carol", files / "p12-0.jpg").text
    wait(browser, lambda: sorted(listed(browser)) == ["Alice <b>", "Bob", "Carol"])
    shot(browser, "people")
    again = enrol(browser, "Robert", files / "p8-3.jpg")
    assert "resembles Bob" in again.text
    assert "None of the photographs can be used" in enrol(browser, "Nobody", files / "nobody.jpg").text

    assert "probably Bob" in identify(browser, server, files / "p8-3.jpg")
    shot(browser, "identify")
    (files / "stranger.jpg").write_bytes(jpeg(24))
    assert "nobody who is enrolled" in identify(browser, server, files / "stranger.jpg")
    shot(browser, "identify-unknown")
    assert "no face was found" in identify(browser, server, files / "nobody.jpg")

    section(browser, server, "people")
    wait(browser, lambda: len(listed(browser)) == 3)
    browser.find_element(By.ID, "people-search").send_keys("bo")
    wait(browser, lambda: listed(browser) == ["Bob"])
    delete = browser.find_element(By.CSS_SELECTOR, "[aria-label='Delete Bob']")
    delete.click()
    wait(browser, browser.find_element(By.ID, "confirm").is_displayed)
    shot(browser, "delete")
    browser.find_element(By.ID, "confirm-no").click()
    wait(browser, lambda: not browser.find_element(By.ID, "confirm").is_displayed())
    assert browser.switch_to.active_element == delete
    assert listed(browser) == ["Bob"]
    delete.click()
    browser.find_element(By.ID, "confirm-yes").click()
    wait(browser, lambda: "Nobody of this name" in browser.find_element(By.ID, "people-note").text)
    assert "nobody who is enrolled" in identify(browser, server, files / "p8-3.jpg")
    assert complaints(browser) == []


def test_a_key_sees_what_its_role_allows(browser, new_server, keys):
    path, by_role = keys
    server = new_server("--keys", str(path))
    for role, may_enrol in (("read", False), ("enrol", True)):
        opened(browser, server)
        wait(browser, browser.find_element(By.ID, "key").is_displayed)
        browser.find_element(By.ID, "key").send_keys(by_role[role], Keys.ENTER)
        link = browser.find_element(By.CSS_SELECTOR, "nav a[href='#people']")
        wait(browser, link.is_displayed)
        link.click()
        wait(browser, lambda: "Nobody is enrolled yet" in browser.find_element(By.ID, "people-note").text)
        assert browser.find_element(By.ID, "enrol-form").is_displayed() is may_enrol


def test_assistive_technology_finds_its_way(browser, new_server, files):
    """The rules of axe-core, in each section, with results, in light and dark."""
    axe = Path(pytest.importorskip("axe_core_python", reason="axe-core-python is not installed").__file__).parent
    program = (axe / "axe.min.js").read_text(encoding="utf-8")
    check = "const done = arguments[arguments.length - 1]; axe.run().then(found => done(found.violations));"
    server = new_server()
    try:
        for scheme in ("light", "dark"):
            browser.execute_cdp_cmd(
                "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            )
            section(browser, server, "people")
            enrol(browser, f"Alice {scheme}", files / ("one.jpg" if scheme == "light" else "other.jpg"))
            wait(browser, lambda: listed(browser))
            browser.execute_script(program)
            found = {"people": browser.execute_async_script(check)}
            identify(browser, server, files / "same.jpg")
            browser.execute_script(program)
            found["identify"] = browser.execute_async_script(check)
            section(browser, server, "compare")
            compare(browser, files, "one", "same")
            browser.execute_script(program)
            found["compare"] = browser.execute_async_script(check)
            section(browser, server, "about")
            browser.execute_script(program)
            found["about"] = browser.execute_async_script(check)
            rows = [
                (place, rule["impact"], rule["id"], [node["html"][:120] for node in rule["nodes"]])
                for place, rules in found.items()
                for rule in rules
            ]
            assert rows == []
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
