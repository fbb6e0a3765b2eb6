package brand

import (
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// contrast is WCAG 2.2's definition written down once more, from the text of a colour.
func contrast(t testing.TB, a, b string) float64 {
	t.Helper()
	light := func(s string) float64 {
		var sum float64
		for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
			n, err := strconv.ParseUint(s[1+2*i:3+2*i], 16, 8)
			if err != nil || len(s) != 7 {
				t.Fatalf("colour %q", s)
			}
			v := float64(n) / 255
			if v <= 0.03928 { // the value that WCAG prints
				v /= 12.92
			} else {
				v = math.Pow((v+0.055)/1.055, 2.4)
			}
			sum += weight * v
		}
		return sum
	}
	x, y := light(a), light(b)
	if x < y {
		x, y = y, x
	}
	return (x + 0.05) / (y + 0.05)
}

// pairs are which text stands on what, and its least contrast, by the names in the document.
var pairs = []struct {
	text, on string
	least    float64
}{
	{"on_brand", "brand", 4.5},
	{"on_surface", "surface", 7},
	{"on_surface", "surface_raised", 7},
	{"on_surface_muted", "surface", 4.5},
	{"on_surface_muted", "surface_raised", 4.5},
	{"accent", "surface", 4.5},
	{"accent", "surface_raised", 4.5},
	{"on_accent", "accent", 4.5},
	{"on_accent_soft", "accent_soft", 4.5},
	{"outline", "surface", 3},
	{"outline", "surface_raised", 3},
	{"error", "surface", 4.5},
	{"error", "surface_raised", 4.5},
	{"on_error", "error", 4.5},
}

func checkPalette(t *testing.T, c Colour, p Palette) {
	t.Helper()
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var schemes map[string]map[string]string
	if err := json.Unmarshal(raw, &schemes); err != nil {
		t.Fatal(err)
	}
	for name, s := range schemes {
		seen := map[string]bool{}
		for _, pair := range pairs {
			seen[pair.text], seen[pair.on] = true, true
			if got := contrast(t, s[pair.text], s[pair.on]); got < pair.least {
				t.Errorf("%s, %s: %s %s on %s %s has %.3f:1", c, name, pair.text, s[pair.text], pair.on, s[pair.on], got)
			}
		}
		if len(seen) != len(s) {
			t.Errorf("%d of %d colours are in pairs", len(seen), len(s))
		}
		if s["brand"] != c.String() {
			t.Errorf("%s, %s: the brand is %s", c, name, s["brand"])
		}
	}
	// The hue stays where there is one to see.
	for _, s := range []Scheme{p.Light, p.Dark} {
		b, a := c.tone(), s.Accent.tone()
		if b.c < 0.05 || a.c < 0.05 {
			continue
		}
		if turn := math.Abs(math.Remainder(a.h-b.h, 2*math.Pi)) * 180 / math.Pi; turn > 3 {
			t.Errorf("%s: the accent %s is turned by %.1f°", c, s.Accent, turn)
		}
	}
}

func anyColour(random *rand.Rand) Colour {
	channel := func() uint8 { return uint8(random.IntN(256)) } //nolint:gosec // G115: it fits
	return Colour{channel(), channel(), channel()}
}

// Of every colour a palette can be read, or is refused with one that is taken.
func TestPalettes(t *testing.T) {
	t.Parallel()
	var colours []Colour
	for i := range 8 {
		colours = append(colours, Colour{uint8(i&1) * 255, uint8(i>>1&1) * 255, uint8(i>>2&1) * 255})
	}
	for i := range 256 {
		colours = append(colours, Colour{uint8(i), uint8(i), uint8(i)})
	}
	random := rand.New(rand.NewPCG(3, 5)) //nolint:gosec // G404: the same in each run
	for range 10_000 {
		colours = append(colours, anyColour(random))
	}
	refused := 0
	for _, c := range colours {
		p, err := NewPalette(c, nil)
		var wrong *ColourError
		switch {
		case err == nil:
			checkPalette(t, c, p)
		case !errors.As(err, &wrong) || wrong.Field != "colour" || !strings.Contains(err.Error(), wrong.Nearest.String()):
			t.Errorf("%s: %v", c, err)
		default:
			refused++
			if d := difference(c, wrong.Nearest); d > 3*apart {
				t.Errorf("%s: %s is not near: %.3f", c, wrong.Nearest, d)
			}
			if p, err = NewPalette(wrong.Nearest, nil); err != nil {
				t.Errorf("%s: the advice %s is refused: %v", c, wrong.Nearest, err)
			}
			checkPalette(t, wrong.Nearest, p)
		}
	}
	if refused == 0 || refused > len(colours)/20 {
		t.Errorf("%d of %d colours are refused", refused, len(colours))
	}
	t.Logf("%d of %d colours are refused", refused, len(colours))
}

// A pair that cannot be read is refused, with a text colour and a brand colour that would do.
func TestTextOnTheBrand(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(7, 11)) //nolint:gosec // G404: the same in each run
	refused := 0
	for range 2000 {
		c, on := anyColour(random), anyColour(random)
		readable := contrast(t, c.String(), on.String()) >= 4.5
		p, err := NewPalette(c, &on)
		var wrong *ColourError
		if errors.As(err, &wrong) && wrong.Field == "colour" {
			continue // the page's own
		}
		if readable != (err == nil) {
			t.Errorf("%s on %s: %v", on, c, err)
		}
		if err == nil {
			checkPalette(t, c, p)
			if p.Light.OnBrand != on || p.Dark.OnBrand != on {
				t.Errorf("%s on %s: %s", on, c, p.Light.OnBrand)
			}
			continue
		}
		refused++
		words := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == ' ' || r == ',' || r == ':' })
		var named []Colour
		for _, w := range words {
			if other, err := ParseColour(w); err == nil {
				named = append(named, other)
			}
		}
		if len(named) != 5 || named[2] != wrong.Nearest {
			t.Fatalf("%s on %s: %v", on, c, err)
		}
		for _, pair := range [][2]Colour{{c, named[2]}, {named[3], on}, {c, named[4]}} {
			if got := contrast(t, pair[0].String(), pair[1].String()); got < 4.5 {
				t.Errorf("%s: the advice %s on %s has %.2f:1", err, pair[1], pair[0], got)
			}
		}
	}
	if refused < 500 {
		t.Errorf("%d are refused", refused)
	}
}

func TestContrastOfKnownPairs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want float64
	}{{"#000", "#fff", 21}, {"#fff", "#fff", 1}, {"#777777", "#ffffff", 4.48}, {"#767676", "#ffffff", 4.54}, {"#0000ff", "#ffffff", 8.59}} {
		x, err1 := ParseColour(c.a)
		y, err2 := ParseColour(c.b)
		if got := Contrast(x, y); err1 != nil || err2 != nil || math.Abs(got-c.want) > 0.005 {
			t.Errorf("%s on %s: %.3f, want %.2f", c.a, c.b, got, c.want)
		}
	}
	for _, s := range []string{"", "#", "fff", "#ff", "#ffff", "#gggggg", "#1234567", "red"} {
		if _, err := ParseColour(s); err == nil {
			t.Errorf("%q is a colour", s)
		}
	}
}

// Every colour of the screen is its own tone.
func TestTonesGoThereAndBack(t *testing.T) {
	t.Parallel()
	for r := 0; r < 256; r += 5 {
		for g := 0; g < 256; g += 5 {
			for b := 0; b < 256; b += 5 {
				c := Colour{uint8(r), uint8(g), uint8(b)}
				if got := c.tone().colour(); got != c {
					t.Errorf("%s comes back as %s", c, got)
				}
			}
		}
	}
}

// TestPaletteForPeople draws what docs/operating.md shows.
func TestPaletteForPeople(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	colours := []string{"#1c6ea4", "#ffcc00", "#003366", "#e4002b", "#00a651", "#777777"}
	b.WriteString(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 ` + strconv.Itoa(20+130*len(colours)) + `" font-family="sans-serif" font-size="14">` + "\n")
	rect := func(x, y, w, h int, fill Colour, more string) {
		b.WriteString(`<rect x="` + strconv.Itoa(x) + `" y="` + strconv.Itoa(y) + `" width="` + strconv.Itoa(w) + `" height="` + strconv.Itoa(h) + `" fill="` + fill.String() + `"` + more + "/>\n")
	}
	text := func(x, y int, fill Colour, s string) {
		b.WriteString(`<text x="` + strconv.Itoa(x) + `" y="` + strconv.Itoa(y) + `" fill="` + fill.String() + `">` + s + "</text>\n")
	}
	for i, name := range colours {
		c, err := ParseColour(name)
		if err != nil {
			t.Fatal(err)
		}
		p, err := NewPalette(c, nil)
		if err != nil {
			t.Fatal(err)
		}
		for j, s := range []Scheme{p.Light, p.Dark} {
			x, y := 10+475*j, 10+130*i
			rect(x, y, 465, 120, s.Surface, "")
			rect(x, y, 465, 34, s.Brand, "")
			text(x+12, y+22, s.OnBrand, "Inbox "+name)
			rect(x+10, y+42, 215, 70, s.SurfaceRaised, ` rx="6" stroke="`+s.Outline.String()+`"`)
			text(x+20, y+62, s.OnSurface, "Alice: lunch on Friday?")
			text(x+20, y+82, s.OnSurfaceMuted, "Shall we try the new place")
			text(x+20, y+102, s.Accent, "Show all, "+s.Accent.String())
			rect(x+235, y+42, 105, 30, s.Accent, ` rx="6"`)
			text(x+250, y+62, s.OnAccent, "Reply")
			rect(x+235, y+80, 105, 32, s.AccentSoft, ` rx="6"`)
			text(x+250, y+101, s.OnAccentSoft, "Archive")
			rect(x+350, y+42, 105, 30, s.Error, ` rx="6"`)
			text(x+365, y+62, s.OnError, "Delete")
			text(x+352, y+101, s.Error, "Not sent")
		}
	}
	b.WriteString("</svg>\n")
	golden(t, filepath.Join("..", "..", "..", "docs", "img", "palettes.svg"), b.String())
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // a directory of the documents
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil { //nolint:gosec // a document
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path) //nolint:gosec // the test's own
	if err != nil || !reflect.DeepEqual(string(want), got) {
		t.Errorf("%s is not what is made now (renew it with -update): %v", path, err)
	}
}
