package brand

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/color"
	"image/png"
	"os"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

const (
	svgHead  = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10">`
	svgShape = `<rect width="4" height="4" fill="#1c6ea4"/>`
)

func svg(inside string) string { return svgHead + svgShape + inside + "</svg>" }

// A logo as a drawing program writes it keeps its picture, and loses the program.
func TestSVGKeepsThePicture(t *testing.T) {
	t.Parallel()
	const drawn = `<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<!-- Created with a drawing program -->
<svg:svg width="40px" height="20" version="1.1" id="svg5" xmlns:inkscape="http://www.inkscape.org/namespaces/inkscape" inkscape:version="1.2"
  xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:svg="http://www.w3.org/2000/svg">
  <inkscape:namedview id="n" showgrid="false"><inkscape:grid/></inkscape:namedview>
  <svg:title>Blue &amp; Mail</svg:title>
  <svg:metadata><rdf>x</rdf></svg:metadata>
  <svg:defs><svg:linearGradient id="a"><svg:stop offset="0" style="stop-color:#000;-inkscape-font-specification:Sans"/></svg:linearGradient>
  <svg:linearGradient xlink:href="#a" id="b" gradientTransform="matrix(1,0,0,1,2,3) scale(2)"/>
  <svg:clipPath id="c"><svg:rect width="5" height="5"/></svg:clipPath></svg:defs>
  <svg:style type="text/css"> .st0, #p { fill : url(#b) !important; font-family: 'Open Sans' } /* note } */ .st1{stroke:#FFF} </svg:style>
  <svg:path d="M0 0 L1e-3,4z" class="st0" inkscape:label="path" data-name="x" style="stroke:rgb(1, 2, 3)" clip-path="url(#c)"/>
</svg:svg>`
	const want = `<svg xmlns="http://www.w3.org/2000/svg" width="40px" height="20" id="svg5" viewBox="0 0 40 20">` +
		`<defs><linearGradient id="a"><stop offset="0" style="stop-color:#000"></stop></linearGradient>` +
		`<linearGradient href="#a" id="b" gradientTransform="matrix(1,0,0,1,2,3) scale(2)"></linearGradient>` +
		`<clipPath id="c"><rect width="5" height="5"></rect></clipPath></defs>` +
		`<style>.st0,#p{fill:url(#b)}.st1{stroke:#FFF}</style>` +
		`<path d="M0 0 L1e-3,4z" class="st0" style="stroke:rgb(1, 2, 3)" clip-path="url(#c)"></path></svg>`
	got, mediaType, err := CleanLogo([]byte(drawn))
	if err != nil || mediaType != SVG || string(got) != want {
		t.Errorf("%s, %v\n%s\nwant\n%s", mediaType, err, got, want)
	}
	again, _, err := CleanLogo(got)
	if err != nil || !bytes.Equal(again, got) {
		t.Errorf("cleaned again: %s, %v", again, err)
	}
	harmless(t, got)
}

// What acts, or leads elsewhere, is refused with what to do about it.
func TestSVGIsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ logo, says string }{
		{svg(`<script>alert(1)</script>`), "holds a script: remove it"},
		{svg(`<SCRIPT/>`), "holds a script"},
		{svg(`<x:script xmlns:x="http://www.w3.org/1999/xhtml">1</x:script>`), "holds a script"},
		{svg(`<metadata><y><script/></y></metadata>`), "holds a script"},
		{svg(`<g onload="alert(1)"/>`), "has an event handler (onload): remove it"},
		{svg(`<g ONCLICK="1"/>`), "has an event handler"},
		{svg(`<foreignObject/>`), "holds a foreign object"},
		{svg(`<image href="https://evil.example/x.png"/>`), "holds an image within"},
		{svg(`<use href="#a"/>`), "turn copies into paths"},
		{svg(`<use href="https://evil.example/#a"/>`), "turn copies into paths"},
		{svg(`<a href="javascript:alert(1)"/>`), "holds a link"},
		{svg(`<animate attributeName="href" to="javascript:1"/>`), "is animated"},
		{svg(`<animateTransform/>`), "is animated"},
		{svg(`<set/>`), "is animated"},
		{svg(`<text>Mail</text>`), "turn it into paths"},
		{svg(`<filter/>`), "holds a filter"},
		{svg(`<video/>`), "holds the element video"},
		{svg(`<svg/>`), "holds the element svg"},
		{svg(`<linearGradient href="https://evil.example/#a"/>`), "refers to something else"},
		{svg(`<linearGradient xlink:href="data:x" xmlns:xlink="http://www.w3.org/1999/xlink"/>`), "refers to something else"},
		{svg(`<rect href="#a"/>`), "refers to something else"},
		{svg(`<g xml:base="https://evil.example/"/>`), "refers to something else"},
		{svg(`<rect fill="url(https://evil.example/)"/>`), "neither number, colour nor shape"},
		{svg(`<rect fill="url(evil.svg#a)"/>`), "refers to something else (fill"},
		{svg(`<rect fill="url(evil)"/>`), "refers to something else"},
		{svg(`<rect fill="url('#a"/>`), "cannot be read"},
		{svg(`<rect fill="expression(1)"/>`), "has the function"},
		{svg(`<rect fill="u\72l(x)"/>`), "neither number"},
		{svg(`<rect style="fill:url(//evil.example/a)"/>`), "neither number"},
		{svg(`<rect style="background:url(a)"/>`), "refers to something else in a style (background)"},
		{svg(`<style>@import "evil.css";</style>`), "has a style"},
		{svg(`<style>@import url(x);rect{fill:red}</style>`), "has a style for"},
		{svg(`<style>rect{fill:url(x)}</style>`), "refers to something else"},
		{svg(`<style>rect{fill:red</style>`), "has a style that cannot be read"},
		{svg(`<style>rect{behavior:url(#x)}</style>`), "refers to something else"},
		{svg(`<style><rect/></style>`), "something other than text"},
		{svg(`<mask id="m"><g mask="url(#m)"/></mask>`), "clips or masks"},
		{svg(`<g id="a b"/>`), "has the id"},
		{`<!DOCTYPE svg [<!ENTITY x "y">]>` + svg("&x;"), "has a DOCTYPE or entities"},
		{svg("&x;"), "no well-formed XML"},
		{`<?xml-stylesheet href="evil.css"?>` + svg(""), "refers to another file"},
		{`<?xml version="1.0" encoding="UTF-16"?>` + svg(""), "in UTF-8"},
		{svgHead + svgShape, "no well-formed XML"},
		{svg("<g>"), "no well-formed XML"},
		{`<svg viewBox="0 0 1 1"/>`, "is no SVG file"},
		{`<html/>`, "is no SVG file"},
		{`<html xmlns="http://www.w3.org/2000/svg"/>`, "is no SVG file"},
		{svgHead + `</svg>`, "is empty"},
		{`<svg xmlns="http://www.w3.org/2000/svg" width="100%">` + svgShape + `</svg>`, "has no viewBox"},
		{svg(strings.Repeat("<g>", 40) + strings.Repeat("</g>", 40)), "within each other"},
		{svg(strings.Repeat("<g/>", 5001)), "elements"},
		{"", "is empty"},
		{"GIF89a", "neither a PNG nor an SVG"},
		{svg(strings.Repeat(" ", 300<<10)), "has 301 KB"},
	} {
		got, _, err := CleanLogo([]byte(c.logo))
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.80s: %v, want %q\n%.200s", c.logo, err, c.says, got)
		}
	}
}

var (
	handler   = regexp.MustCompile(`(?i)^on`)
	reference = regexp.MustCompile(`(?i)[a-z]+:|//|\\|@|expression|url\(\s*['"]?[^#'"\s]`)
	allowed   = map[string]bool{
		"svg": true, "g": true, "defs": true, "path": true, "rect": true, "circle": true, "ellipse": true, "line": true, "polyline": true, "polygon": true,
		"lineargradient": true, "radialgradient": true, "stop": true, "clippath": true, "mask": true, "style": true,
	}
)

// harmless walks a picture as a browser reads it, with a parser of HTML, and knows nothing of how it was cleaned.
func harmless(t testing.TB, picture []byte) {
	t.Helper()
	z := html.NewTokenizer(bytes.NewReader(picture))
	style := false
	for {
		switch z.Next() {
		case html.ErrorToken:
			return
		case html.CommentToken, html.DoctypeToken:
			t.Errorf("a comment or doctype: %s", z.Raw())
		case html.TextToken:
			text := string(z.Text())
			if !style && strings.TrimSpace(text) != "" {
				t.Errorf("text: %q", text)
			}
			for rule := range strings.SplitSeq(text, "}") {
				_, body, _ := strings.Cut(rule, "{")
				for declaration := range strings.SplitSeq(body, ";") {
					if _, value, _ := strings.Cut(declaration, ":"); reference.MatchString(value) {
						t.Errorf("a reference in a style: %s", declaration)
					}
				}
			}
			if strings.ContainsAny(text, `@\<`) {
				t.Errorf("style: %q", text)
			}
		case html.StartTagToken, html.SelfClosingTagToken:
			name, more := z.TagName()
			if style = string(name) == "style"; !allowed[string(name)] {
				t.Errorf("an element %s", name)
			}
			for more {
				var key, value []byte
				key, value, more = z.TagAttr()
				switch k := string(key); {
				case handler.MatchString(k):
					t.Errorf("a handler %s", k)
				case k == "xmlns" && string(value) == svgSpace:
				case k == "href" && bytes.HasPrefix(value, []byte("#")):
				case k == "style":
					for declaration := range strings.SplitSeq(string(value), ";") {
						if _, v, _ := strings.Cut(declaration, ":"); reference.MatchString(v) {
							t.Errorf("a reference in a style: %s", declaration)
						}
					}
				case reference.Match(value) || strings.Contains(k, ":") || k == "href" || k == "src":
					t.Errorf("a reference: %s=%q", k, value)
				}
			}
		case html.EndTagToken:
			style = false
		}
	}
}

// FuzzSVG: whatever passes holds no script, no handler and no reference, and passes again as it is.
func FuzzSVG(f *testing.F) {
	for _, s := range []string{
		svg(""), svg(`<g onload="x"/>`), svg(`<script/>`), svg(`<style>.a{fill:url(#b)}</style>`), svg(`<rect style="fill:url( '#a' );x:y"/>`),
		svg(`<linearGradient href="#a"/>`), svg(`<path d="M0 0"/><!-- c --><x:y xmlns:x="z"/>`), svg(`<g class="a&#x27;b"/>`), svg(`<rect fill="&#117;rl(x)"/>`),
		svg("<style><![CDATA[.a{fill:red}]]></style>"), svg(`<g xmlns="" onclick="1"/>`),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		clean, mediaType, err := CleanLogo(body)
		if err != nil || mediaType != SVG {
			return
		}
		harmless(t, clean)
		wellFormed(t, clean)
		again, _, err := CleanLogo(clean)
		if err != nil || !bytes.Equal(again, clean) {
			t.Errorf("%s\nagain %s, %v", clean, again, err)
		}
	})
}

func picture(t *testing.T, width, height int) []byte {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, width, height))
	for i := range min(width, height) {
		img.Set(i, i, color.NRGBA{28, 110, 164, 200})
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// chunk is a piece of a PNG file.
func chunk(kind string, data []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(data))) //nolint:gosec // a test's own length
	b = append(append(b, kind...), data...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[4:]))
}

func TestPNG(t *testing.T) {
	t.Parallel()
	plain := picture(t, 64, 32)
	// Metadata behind the header, and whatever behind the end.
	const header = 8 + 25
	dirty := append(append(append([]byte{}, plain[:header]...), chunk("tEXt", []byte("Comment\x00<script>"))...), plain[header:]...)
	dirty = append(dirty, "<script>alert(1)</script>"...)
	got, mediaType, err := CleanLogo(dirty)
	if err != nil || mediaType != PNG || bytes.Contains(got, []byte("script")) {
		t.Errorf("%s, %v", mediaType, err)
	}
	want, _ := png.Decode(bytes.NewReader(plain))
	if is, err := png.Decode(bytes.NewReader(got)); err != nil || is.Bounds() != want.Bounds() || is.At(5, 5) != want.At(5, 5) {
		t.Errorf("another picture: %v", err)
	}
	if _, _, err := CleanLogo(picture(t, 1025, 2)); err == nil || !strings.Contains(err.Error(), "1025 × 2 pixels") {
		t.Errorf("too wide: %v", err)
	}
	// A bomb says how large it is, and is not unpacked.
	bomb := append([]byte{}, plain[:8]...)
	head := binary.BigEndian.AppendUint32(nil, 60000)
	head = append(binary.BigEndian.AppendUint32(head, 60000), 8, 6, 0, 0, 0)
	bomb = append(bomb, chunk("IHDR", head)...)
	if _, _, err = CleanLogo(bomb); err == nil || !strings.Contains(err.Error(), "60000 × 60000") {
		t.Errorf("a bomb: %v", err)
	}
	for _, broken := range [][]byte{plain[:40], plain[:8], append(plain[:len(plain)-20:len(plain)-20], "x"...)} {
		if _, _, err := CleanLogo(broken); err == nil || !strings.Contains(err.Error(), "save it again") {
			t.Errorf("broken: %v", err)
		}
	}
}

// The picture of the documents is text, and so no logo; its colours are.
func TestLogoOfADocument(t *testing.T) {
	t.Parallel()
	body, err := os.ReadFile("../../../docs/img/palettes.svg")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := CleanLogo(body); err == nil || !strings.Contains(err.Error(), "text") {
		t.Errorf("%v", err)
	}
}
