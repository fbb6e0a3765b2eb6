package brand

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strings"
)

// Colour is one of the 16.7 million of sRGB. Its text is #rrggbb.
type Colour struct{ R, G, B uint8 }

// ParseColour reads #rrggbb or #rgb.
func ParseColour(s string) (Colour, error) {
	digits, ok := strings.CutPrefix(s, "#")
	if len(digits) == 3 {
		digits = strings.Repeat(digits[:1], 2) + strings.Repeat(digits[1:2], 2) + strings.Repeat(digits[2:], 2)
	}
	raw, err := hex.DecodeString(digits)
	if !ok || err != nil || len(raw) != 3 {
		return Colour{}, errors.New("must be # and six hexadecimal digits, as #1c6ea4")
	}
	return Colour{raw[0], raw[1], raw[2]}, nil
}

func (c Colour) String() string { return fmt.Sprintf("#%02x%02x%02x", c.R, c.G, c.B) }

// MarshalText is String's, for JSON.
func (c Colour) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText is ParseColour's.
func (c *Colour) UnmarshalText(text []byte) (err error) {
	*c, err = ParseColour(string(text))
	return err
}

var black, white = Colour{}, Colour{255, 255, 255}

// linear is the light that each value of a channel stands for (IEC 61966-2-1).
var linear = func() (table [256]float64) {
	for i := range table {
		v := float64(i) / 255
		if v <= 0.04045 {
			table[i] = v / 12.92
		} else {
			table[i] = math.Pow((v+0.055)/1.055, 2.4)
		}
	}
	return table
}()

// channel is the nearest value to an amount of light, and whether it is within what a screen shows.
func channel(light float64) (uint8, bool) {
	v := light * 12.92
	if light > 0.0031308 {
		v = 1.055*math.Pow(light, 1/2.4) - 0.055
	}
	return uint8(math.Round(min(max(v, 0), 1) * 255)), v > -0.0005 && v < 1.0005
}

// luminance is WCAG's relative luminance, from 0 to 1.
func (c Colour) luminance() float64 {
	return 0.2126*linear[c.R] + 0.7152*linear[c.G] + 0.0722*linear[c.B]
}

// Contrast is the contrast ratio of two colours (WCAG 2.2), from 1 to 21.
func Contrast(a, b Colour) float64 {
	x, y := a.luminance(), b.luminance()
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

// tone is a colour in OKLCH: lightness from 0 to 1, chroma, and hue in radians. Unlike in HSL, equal steps look equal,
// and a change of lightness does not turn blue into violet (https://bottosson.github.io/posts/oklab).
type tone struct{ l, c, h float64 }

func (c Colour) tone() tone {
	l, a, b := c.lab()
	return tone{l, math.Hypot(a, b), math.Atan2(b, a)}
}

func (c Colour) lab() (lightness, a, b float64) {
	r, g, bl := linear[c.R], linear[c.G], linear[c.B]
	l := math.Cbrt(0.4122214708*r + 0.5363325363*g + 0.0514459929*bl)
	m := math.Cbrt(0.2119034982*r + 0.6806995451*g + 0.1073969566*bl)
	s := math.Cbrt(0.0883024619*r + 0.2817188376*g + 0.6299787005*bl)
	return 0.2104542553*l + 0.7936177850*m - 0.0040720468*s,
		1.9779984951*l - 2.4285922050*m + 0.4505937099*s,
		0.0259040371*l + 0.7827717662*m - 0.8086757660*s
}

// difference is how far two colours are from each other in OKLab; 0.02 is about what a trained eye just sees.
func difference(x, y Colour) float64 {
	l1, a1, b1 := x.lab()
	l2, a2, b2 := y.lab()
	return math.Sqrt((l1-l2)*(l1-l2) + (a1-a2)*(a1-a2) + (b1-b2)*(b1-b2))
}

// shown is the nearest colour of a screen, and whether the screen shows the tone itself.
func (t tone) shown() (c Colour, fits bool) {
	a, b := t.c*math.Cos(t.h), t.c*math.Sin(t.h)
	l := t.l + 0.3963377774*a + 0.2158037573*b
	m := t.l - 0.1055613458*a - 0.0638541728*b
	s := t.l - 0.0894841775*a - 1.2914855480*b
	l, m, s = l*l*l, m*m*m, s*s*s
	var ok [3]bool
	c.R, ok[0] = channel(4.0767416621*l - 3.3077115913*m + 0.2309699292*s)
	c.G, ok[1] = channel(-1.2684380046*l + 2.6097574011*m - 0.3413193965*s)
	c.B, ok[2] = channel(-0.0041960863*l - 0.7034186147*m + 1.7076147010*s)
	return c, ok[0] && ok[1] && ok[2]
}

// colour is the tone with as much of its chroma as a screen shows, so that lightness and hue stay.
func (t tone) colour() Colour {
	t.l = min(max(t.l, 0), 1)
	if c, fits := t.shown(); fits {
		return c
	}
	low, high := 0.0, t.c
	for range 12 {
		t.c = (low + high) / 2
		if _, fits := t.shown(); fits {
			low = t.c
		} else {
			high = t.c
		}
	}
	t.c = low
	c, _ := t.shown()
	return c
}
