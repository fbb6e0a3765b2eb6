// Package brand makes of a provider's few words what an app shows: palettes from its one colour, a logo that holds
// nothing but a picture, and the documents of the directory.
//
// It is pure: no clock, no disk, no network. Every function is safe for concurrent use.
package brand

import (
	"fmt"
	"math"
)

const (
	// TextContrast is the least contrast of text and what it stands on (WCAG 2.2, 1.4.3).
	TextContrast = 4.5
	// PartContrast is that of what marks a control (1.4.11).
	PartContrast = 3.0
	// apart is how far the brand's colour must be from a page, twice what the eye just sees.
	apart = 0.04
)

// Scheme is the colours of the app by day or by night. Every text has TextContrast with what it stands on.
type Scheme struct {
	// Brand is the provider's colour itself, for bars; OnBrand is text on it.
	Brand   Colour `json:"brand"`
	OnBrand Colour `json:"on_brand"`
	// Surface is the page, SurfaceRaised what lies on it. OnSurface and the quieter OnSurfaceMuted are text on both.
	Surface        Colour `json:"surface"`
	SurfaceRaised  Colour `json:"surface_raised"`
	OnSurface      Colour `json:"on_surface"`
	OnSurfaceMuted Colour `json:"on_surface_muted"`
	// Accent is the brand's hue as text on both surfaces (links) and as a button; OnAccent is text on that button.
	Accent   Colour `json:"accent"`
	OnAccent Colour `json:"on_accent"`
	// AccentSoft is a surface with a breath of the hue (what is chosen), OnAccentSoft text on it.
	AccentSoft   Colour `json:"accent_soft"`
	OnAccentSoft Colour `json:"on_accent_soft"`
	// Outline marks controls on both surfaces, with PartContrast.
	Outline Colour `json:"outline"`
	// Error is text on both surfaces, and a surface for OnError.
	Error   Colour `json:"error"`
	OnError Colour `json:"on_error"`
}

// Palette is a scheme for the day and one for the night.
type Palette struct {
	Light Scheme `json:"light"`
	Dark  Scheme `json:"dark"`
}

// ColourError says why a colour cannot be used, and names one that can.
type ColourError struct {
	// Field is "colour" or "on_colour".
	Field, Problem string
	// Nearest is the nearest colour that could stand in the field.
	Nearest Colour
}

func (e *ColourError) Error() string { return e.Problem }

// NewPalette computes the palettes of a colour, and text on it; on is nil to have black or white chosen. Its errors are
// of type *ColourError:
//   - on must have TextContrast with colour;
//   - colour must be told from the pages of both schemes: a white bar on a white page is none.
//
// All else can be computed for every colour: whatever is too light or too dark to be read keeps its hue, and gives up
// lightness.
func NewPalette(colour Colour, on *Colour) (Palette, error) {
	onBrand := Readable(colour)
	if on != nil {
		if got := Contrast(colour, *on); got < TextContrast {
			nearest := nearestText(*on, colour)
			other := nearestText(colour, *on)
			return Palette{}, &ColourError{"on_colour", fmt.Sprintf("%s on %s has a contrast of %.1f:1, and text needs %.1f:1: take %s, or colour %s, or leave it away to have %s chosen",
				*on, colour, math.Floor(got*10)/10, TextContrast, nearest, other, onBrand), nearest}
		}
		onBrand = *on
	}
	p := paletteOf(colour, onBrand)
	if page, surface := p.lost(); page != "" {
		nearest := nearestApart(colour)
		return Palette{}, &ColourError{"colour", fmt.Sprintf("%s cannot be told from the app's %s page (%s): take another colour, such as %s",
			colour, page, surface, nearest), nearest}
	}
	return p, nil
}

func paletteOf(colour, onBrand Colour) Palette {
	return Palette{Light: scheme(colour, onBrand, day), Dark: scheme(colour, onBrand, night)}
}

// lost names the page that the brand's colour cannot be told from; "" is none.
func (p Palette) lost() (page string, surface Colour) {
	switch {
	case difference(p.Light.Brand, p.Light.Surface) < apart:
		return "light", p.Light.Surface
	case difference(p.Dark.Brand, p.Dark.Surface) < apart:
		return "dark", p.Dark.Surface
	}
	return "", Colour{}
}

// Moved is how far the accent is from the brand's colour in each scheme, for who wants to say so: above 0.2 they look
// like two colours.
func (p Palette) Moved() (light, dark float64) {
	return difference(p.Light.Brand, p.Light.Accent), difference(p.Dark.Brand, p.Dark.Accent)
}

// times is what tells day from night: the lightness of things, and the way to more contrast.
type times struct {
	surface, raised, soft float64
	text, muted           float64
	tint                  float64 // the most chroma of a surface
	way                   float64 // of text: -1 darker, +1 lighter
}

var (
	day   = times{surface: 0.99, raised: 0.965, soft: 0.93, text: 0.22, muted: 0.50, tint: 0.006, way: -1}
	night = times{surface: 0.19, raised: 0.235, soft: 0.30, text: 0.94, muted: 0.72, tint: 0.012, way: +1}
)

// warning is the red of errors, before it is made readable.
var warning = Colour{0xb3, 0x26, 0x1e}

func scheme(brand, onBrand Colour, t times) Scheme {
	b := brand.tone()
	tinted := func(l, most float64) Colour { return tone{l, min(b.c, most), b.h}.colour() }
	s := Scheme{Brand: brand, OnBrand: onBrand, Surface: tinted(t.surface, t.tint), SurfaceRaised: tinted(t.raised, t.tint)}
	s.AccentSoft = tinted(t.soft, 5*t.tint)
	text := func(from tone, least float64, on ...Colour) Colour { return moved(from, t.way, least, on...) }
	s.OnSurface = text(tone{t.text, min(b.c, 0.02), b.h}, 7, s.Surface, s.SurfaceRaised)
	s.OnSurfaceMuted = text(tone{t.muted, min(b.c, 0.02), b.h}, TextContrast, s.Surface, s.SurfaceRaised)
	s.Accent = text(b, TextContrast, s.Surface, s.SurfaceRaised)
	s.OnAccent = Readable(s.Accent)
	s.OnAccentSoft = text(s.Accent.tone(), TextContrast, s.AccentSoft)
	s.Outline = text(tone{(t.muted + t.surface) / 2, min(b.c, 0.02), b.h}, PartContrast, s.Surface, s.SurfaceRaised)
	s.Error = text(warning.tone(), TextContrast, s.Surface, s.SurfaceRaised)
	s.OnError = Readable(s.Error)
	return s
}

// Readable is black or white, whichever is read better on a colour. One of them has 4.58:1 with any.
func Readable(on Colour) Colour {
	if Contrast(on, white) >= TextContrast { // white before black: it is what people expect on a brand's colour
		return white
	}
	return black
}

// moved is the colour nearest to a tone, at its hue, that has a contrast with all of some others. way is where to look
// for it: -1 darker, +1 lighter. At the end of the way stand black and white.
func moved(from tone, way, least float64, on ...Colour) Colour {
	passes := func(c Colour) bool {
		for _, o := range on {
			if Contrast(c, o) < least {
				return false
			}
		}
		return true
	}
	at := func(by float64) Colour {
		t := from
		t.l += way * by
		return t.colour()
	}
	if c := at(0); passes(c) {
		return c
	}
	low, high := 0.0, 1-from.l
	if way < 0 {
		high = from.l
	}
	for range 10 {
		if mid := (low + high) / 2; passes(at(mid)) {
			high = mid
		} else {
			low = mid
		}
	}
	return at(high) // which passed, or is black or white
}

// nearestText is the colour nearest to c that can be text on another one.
func nearestText(c, on Colour) Colour {
	darker, lighter := moved(c.tone(), -1, TextContrast, on), moved(c.tone(), +1, TextContrast, on)
	switch {
	case Contrast(darker, on) < TextContrast:
		return lighter
	case Contrast(lighter, on) >= TextContrast && difference(lighter, c) < difference(darker, c):
		return lighter
	}
	return darker
}

// nearestApart is the colour nearest to c, at its hue, that can be told from both pages. Both are less than 2*apart
// thick, so there is one.
func nearestApart(c Colour) Colour {
	t := c.tone()
	for step := 0.005; step < 1; step += 0.005 {
		for _, l := range []float64{t.l - step, t.l + step} {
			if l < 0 || l > 1 {
				continue
			}
			candidate := tone{l, t.c, t.h}.colour()
			if page, _ := paletteOf(candidate, black).lost(); page == "" {
				return candidate
			}
		}
	}
	return black
}
