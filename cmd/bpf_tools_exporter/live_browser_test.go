package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/page"
	cdpruntime "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// screenshots is a folder for pictures of the pages, to look at.
const screenshots = "BROWSER_SCREENSHOTS"

// A browser is headless, with one tab.
type browser struct {
	ctx context.Context

	mu     sync.Mutex
	faults []string // scripts that failed, and dialogs
}

func startBrowser(t *testing.T) *browser {
	t.Helper()
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		cannotRun(t, "needs chromium (make deps)")
	}
	options := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("disable-dev-shm-usage", true), chromedp.WindowSize(1280, 1000),
	}
	allocator, cancelAllocator := chromedp.NewExecAllocator(t.Context(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		cancel()
		cancelAllocator()
	})
	b := &browser{ctx: ctx}
	// The first context that a browser sees is that of its life.
	if err := chromedp.Listen(ctx, b.take); err != nil {
		t.Fatal(err)
	}
	return b
}

// take notes what no page may cause.
func (b *browser) take(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch event := event.(type) {
	case *cdpruntime.EventExceptionThrown:
		fault := event.ExceptionDetails.Text
		if e := event.ExceptionDetails.Exception; e != nil {
			fault += " " + e.Description
		}
		b.faults = append(b.faults, fault)
	case *page.EventJavascriptDialogOpening:
		b.faults = append(b.faults, "dialog: "+event.Message)
		go func() {
			_, _ = chromedp.Call(b.ctx, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{})
		}()
	}
}

// patience is what things may take on a busy machine.
const patience = 90 * time.Second

// do does things that must go well.
func (b *browser) do(t *testing.T, what string, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.fail(t, what, err)
	}
}

// fail ends the test with what the page shows.
func (b *browser) fail(t *testing.T, what string, err error) {
	t.Helper()
	b.picture(t, "failed")
	ctx, cancel := context.WithTimeout(b.ctx, 5*time.Second)
	defer cancel()
	text, _ := chromedp.Run(ctx, chromedp.Evaluate[string](`location.href + "\n" + document.body.innerText`))
	t.Fatalf("%s: %v\n%s", what, err, text)
}

// eval returns what an expression of JavaScript comes to.
func eval[T any](t *testing.T, b *browser, expression string) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.fail(t, expression, err)
	}
	return value
}

// await polls until an expression is true, on whatever page that is by then.
func (b *browser) await(t *testing.T, expression string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	for {
		holds, err := chromedp.Run(ctx, chromedp.Evaluate[bool](expression))
		if holds {
			return
		}
		if ctx.Err() != nil {
			b.fail(t, expression, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// picture is kept only where somebody wants to look at it.
func (b *browser) picture(t *testing.T, name string) {
	t.Helper()
	dir := os.Getenv(screenshots)
	if dir == "" {
		return
	}
	image, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		t.Logf("no picture %s: %v", name, err)
		return
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), image, 0o644); err != nil {
		t.Log(err)
	}
}

// pictures is picture in the dark, on a phone, and as it is.
func (b *browser) pictures(t *testing.T, name string) {
	t.Helper()
	if os.Getenv(screenshots) == "" {
		return
	}
	b.picture(t, name)
	b.scheme(t, "dark")
	b.picture(t, name+"-dark")
	b.do(t, "phone", chromedp.EmulateViewport(390, 844))
	b.picture(t, name+"-phone")
	b.scheme(t, "light")
	b.do(t, "back", chromedp.EmulateViewport(1280, 1000))
}

func (b *browser) scheme(t *testing.T, value string) {
	t.Helper()
	params := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: value}}}
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, params); err != nil {
		t.Fatal(err)
	}
}

func (b *browser) expectNoFaults(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, fault := range b.faults {
		t.Errorf("in the browser: %s", fault)
	}
}

// TestLiveBrowser uses the pages as a person does.
func TestLiveBrowser(t *testing.T) {
	needLive(t)
	b := startBrowser(t)
	e := startExporter(t, "--collector.disable-defaults", "--collector.runqlat", "--collector.profile", "--collector.execsnoop", "--collector.tcplife", "--collector.biosnoop")

	t.Run("list", func(t *testing.T) {
		b.do(t, "list", chromedp.Navigate(e.url+"/"), chromedp.WaitVisible(`a[href="./tools/profile"]`))
		if n := eval[int](t, b, `document.querySelectorAll("h1").length`); n != 1 {
			t.Errorf("%d headings of the first level", n)
		}
		b.pictures(t, "list")
	})
	t.Run("profile", func(t *testing.T) { browseProfile(t, e, b) })
	t.Run("runqlat", func(t *testing.T) { browseRunqlat(t, e, b) })
	t.Run("events", func(t *testing.T) { browseEvents(t, e, b) })
	t.Run("graph", func(t *testing.T) { browseGraph(t, e, b) })
	t.Run("disk", func(t *testing.T) { browseDisk(t, e, b) })
	b.expectNoFaults(t)
}

// frameOf is the frame of the flame graph of that name, as JavaScript.
func frameOf(name string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("#flame g.frame")].find((g) => g.getAttribute("name") === %q)`, name)
}

func browseProfile(t *testing.T, e *exporter, b *browser) {
	name := uniqueName("spin")
	startSpinning(t, name, 1)
	// A program that would be markup.
	hostile := filepath.Join(t.TempDir(), "<img src=x oner")
	startSpinning(t, filepath.Base(hostile), 1)
	b.do(t, "the form",
		chromedp.Navigate(e.url+"/tools/profile"), chromedp.WaitVisible("#duration"),
		chromedp.SetValue("#duration", "6"), chromedp.SetValue("#option-hz", "99"))
	b.pictures(t, "tool-profile")
	b.do(t, "start", chromedp.Click(`form.run button[type=submit]`), chromedp.WaitVisible("#progress"))
	b.await(t, `location.pathname.startsWith("/runs/")`)
	b.await(t, `document.getElementById("progress").value > 0.2 && document.getElementById("progress").value < 1`)
	b.picture(t, "run-profile-progress")
	b.await(t, `document.querySelectorAll("#flame g.frame").length > 5`)
	b.await(t, frameOf(spinFunction)+` !== undefined`)
	time.Sleep(time.Second) // the graph moves into place
	b.pictures(t, "run-profile")
	if n := eval[int](t, b, `document.querySelectorAll("main img").length`); n != 0 {
		t.Errorf("%d images: a name has become markup", n)
	}
	b.await(t, frameOf("<img src=x oner")+` !== undefined`)
	if text := eval[string](t, b, `document.querySelector("#programs").parentNode.innerText`); !strings.Contains(text, name) || !strings.Contains(text, "<img src=x oner") {
		t.Errorf("the table of programs lacks the loops: %s", text)
	}

	// A click zooms: the program takes the whole width.
	width := func(of string) float64 {
		return eval[float64](t, b, frameOf(of)+`.querySelector("rect").getBoundingClientRect().width`)
	}
	before := width(name)
	eval[bool](t, b, frameOf(name)+`.dispatchEvent(new MouseEvent("click", {bubbles: true}))`)
	b.await(t, fmt.Sprintf(`%s.querySelector("rect").getBoundingClientRect().width > %g`, frameOf(name), 0.95*width("all")))
	if after := width(name); after <= before {
		t.Errorf("%g pixels wide before the click, %g after it", before, after)
	}
	if text := eval[string](t, b, `document.getElementById("details").textContent`); !strings.HasPrefix(text, name+": ") {
		t.Errorf("details: %q", text)
	}
	b.picture(t, "run-profile-zoomed")
	b.do(t, "reset", chromedp.Click("#reset"))
	b.await(t, fmt.Sprintf(`%s.querySelector("rect").getBoundingClientRect().width < %g`, frameOf(name), 0.95*width("all")))

	browseFrames(t, b)

	// The search finds the function and nothing else.
	b.do(t, "search", chromedp.SendKeys("#search", "spinForThe"))
	b.await(t, `document.getElementById("details").textContent.includes("spinForThe")`)
	found := eval[[]string](t, b, `[...document.querySelectorAll("#flame g.frame")].filter((g) => g.querySelector("rect").getAttribute("fill") === "#c45ad8").map((g) => g.getAttribute("name"))`)
	for _, one := range found {
		if one != spinFunction {
			t.Errorf("found %q", one)
		}
	}
	if len(found) == 0 {
		t.Error("the search found nothing")
	}
	b.picture(t, "run-profile-search")
}

// browseFrames goes through the flame graph without a mouse.
func browseFrames(t *testing.T, b *browser) {
	t.Helper()
	const at, widest = `document.activeElement`, `[...document.querySelectorAll("#flame g.frame")].map((g) => d3.select(g).datum()).filter((d) => d.depth === 1).sort((a, b) => b.value - a.value)[0].data.name`
	press := func(key, frame string) {
		t.Helper()
		b.do(t, "key", chromedp.KeyEvent(key))
		if name := eval[string](t, b, at+`.getAttribute("name")`); name != frame {
			t.Errorf("the key %q leads to the frame %q, want %q", key, name, frame)
		}
		said, told := eval[string](t, b, at+`.getAttribute("aria-label")`), eval[string](t, b, `document.getElementById("details").textContent`)
		if said != told || !strings.HasPrefix(said, frame+": ") {
			t.Errorf("the frame %q is called %q, and details say %q", frame, said, told)
		}
		if n := eval[int](t, b, `document.querySelectorAll("#flame [tabindex='0']").length`); n != 1 {
			t.Errorf("%d frames are in the tab order", n)
		}
	}
	program := eval[string](t, b, widest)
	wide := fmt.Sprintf(`%s.querySelector("rect").getBoundingClientRect().width / %s.querySelector("rect").getBoundingClientRect().width`, frameOf(program), frameOf("all"))
	b.do(t, "focus", chromedp.Focus("#reset"), chromedp.KeyEvent(kb.Tab))
	if name := eval[string](t, b, at+`.getAttribute("name")`); name != "all" {
		t.Fatalf("behind the button, Tab leads to %q", name)
	}
	// A pointer that rests does not speak when frames move under it.
	second := eval[string](t, b, strings.Replace(widest, "[0]", "[1]", 1))
	middle := func(side, size string) float64 {
		return eval[float64](t, b, fmt.Sprintf(`((r) => r.%s + r.%s / 2)(%s.getBoundingClientRect())`, side, size, frameOf(second)))
	}
	b.do(t, "point", chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, middle("left", "width"), middle("top", "height")))
	b.await(t, fmt.Sprintf(`document.getElementById("details").textContent.startsWith(%q)`, second+": "))
	press(kb.ArrowDown, "all")
	press(kb.ArrowUp, program)
	press(kb.Enter, program)
	b.await(t, wide+` > 0.95`)
	press(kb.ArrowDown, "all")
	press(kb.ArrowUp, program)
	press(kb.Escape, program)
	b.await(t, wide+` < 0.95`)
	time.Sleep(time.Second) // the frames come to rest
	if told := eval[string](t, b, `document.getElementById("details").textContent`); !strings.HasPrefix(told, program+": ") {
		t.Errorf("details tell of %q, not of %q, where the keyboard is", told, program)
	}
	side, back := kb.ArrowRight, kb.ArrowLeft
	beside := func(x string) string {
		return eval[string](t, b, fmt.Sprintf(`(() => { const d = d3.select(%s).datum(); const row = d.parent.children.filter((c) => !c.hide && [...document.querySelectorAll("#flame g.frame")].some((g) => d3.select(g).datum() === c)).sort((a, b) => a.x0 - b.x0); return (row[row.indexOf(d) + %s] || d).data.name; })()`, at, x))
	}
	if beside("1") == program {
		side, back = back, side
	}
	step := map[string]string{kb.ArrowRight: "1", kb.ArrowLeft: "-1"}[side]
	press(side, beside(step))
	press(back, program)
}

func browseRunqlat(t *testing.T, e *exporter, b *browser) {
	startSpinning(t, uniqueName("wait"), 4, 0)
	b.do(t, "start", chromedp.Navigate(e.url+"/tools/runqlat"), chromedp.WaitVisible("#duration"),
		chromedp.SetValue("#duration", "5"), chromedp.Submit("#duration"))
	b.await(t, `location.pathname.startsWith("/runs/") && document.getElementById("state").textContent === "done"`)
	b.await(t, `document.querySelectorAll(".chart .bar").length > 10 && document.querySelectorAll(".chart .heat").length > 20`)
	b.pictures(t, "run-runqlat")
	// Bars of threads that waited for a time slice, beside those of idle CPUs.
	long := eval[int](t, b, `[...document.querySelectorAll(".bar title")].filter((t) => /^\d[\d.]* ms/.test(t.textContent)).length`)
	if long < 3 {
		t.Errorf("%d bars of milliseconds", long)
	}
	b.do(t, "table", chromedp.Click("#result details summary"))
	if rows := eval[int](t, b, `document.querySelectorAll("#result details[open] tbody tr").length`); rows < 10 {
		t.Errorf("%d rows in the table", rows)
	}
}

// browseEvents looks on while programs start, one of which is markup.
func browseEvents(t *testing.T, e *exporter, b *browser) {
	b.do(t, "live table", chromedp.Navigate(e.url+"/tools/execsnoop"), chromedp.WaitVisible("#event-table"))
	b.await(t, `document.getElementById("live-state").textContent === "Following."`)
	const markup = "<img src=x onerror=alert(1)>"
	program := tinyProgram(t, uniqueName("live"))
	for range 3 {
		if err := exec.Command(program, markup).Run(); err != nil {
			t.Fatal(err)
		}
	}
	b.await(t, fmt.Sprintf(`document.querySelector("#event-table tbody").innerText.includes(%q)`, filepath.Base(program)))
	if text := eval[string](t, b, `document.querySelector("#event-table tbody").innerText`); !strings.Contains(text, markup) {
		t.Errorf("the argument is not shown as it is: %s", text)
	}
	if n := eval[int](t, b, `document.querySelectorAll("main img").length`); n != 0 {
		t.Errorf("%d images: an argument has become markup", n)
	}
	b.pictures(t, "tool-execsnoop")
}

func browseGraph(t *testing.T, e *exporter, b *browser) {
	b.do(t, "tcplife", chromedp.Navigate(e.url+"/tools/tcplife"), chromedp.WaitVisible("#event-table"))
	b.await(t, `document.getElementById("live-state").textContent === "Following."`)
	server, client := uniqueName("srv"), uniqueName("cli")
	runSessions(t, server, client, "127.0.0.1", 5, 2000, 1000)
	b.await(t, fmt.Sprintf(`document.getElementById("event-charts").textContent.includes(%q)`, client))
	if n := eval[int](t, b, `document.querySelectorAll("#event-charts path.link").length`); n == 0 {
		t.Error("no links")
	}
	b.pictures(t, "tool-tcplife")
}

func browseDisk(t *testing.T, e *exporter, b *browser) {
	b.do(t, "biosnoop", chromedp.Navigate(e.url+"/tools/biosnoop"), chromedp.WaitVisible("#event-table"))
	b.await(t, `document.getElementById("live-state").textContent === "Following."`)
	directIO(t, loopDevice(t, 64<<20), 40, 40)
	b.await(t, `document.querySelectorAll("#event-charts .heat").length > 0`)
	b.pictures(t, "tool-biosnoop")
}
