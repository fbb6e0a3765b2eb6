package brand

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"unicode/utf16"
)

// wellFormed reads a picture as a browser's parser of XML does: one root, and no attribute twice (XML 1.0 section 3.1).
func wellFormed(t testing.TB, picture []byte) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(picture))
	depth, roots := 0, 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Errorf("%.300s: %v", picture, err)
			return
		}
		switch token := token.(type) {
		case xml.StartElement:
			if depth++; depth == 1 {
				roots++
			}
			seen := map[xml.Name]bool{}
			for _, a := range token.Attr {
				if seen[a.Name] {
					t.Errorf("%s has %s twice", token.Name.Local, a.Name.Local)
				}
				seen[a.Name] = true
			}
		case xml.EndElement:
			depth--
		case xml.CharData:
			if depth == 0 && strings.TrimSpace(string(token)) != "" {
				t.Errorf("text outside of the root: %q", token)
			}
		}
	}
	if roots != 1 {
		t.Errorf("%d roots: %.300s", roots, picture)
	}
}

// What is dropped or twice leaves a picture that browsers read.
func TestSVGIsWellFormed(t *testing.T) {
	t.Parallel()
	for _, logo := range []string{
		svg(`<linearGradient id="a"/><linearGradient id="b" href="#a" xlink:href="#a" xmlns:xlink="http://www.w3.org/1999/xlink"/>`),
		svg(`<rect fill="red" fill="blue"/>`),
		svg(`<rect style="fill:red" style="fill:blue"/>`),
		svg("") + svgShape,
		svg("") + "text",
		svg("") + `<rect xmlns="http://www.w3.org/2000/svg" width="1"/>`,
		svgShape + svg(""),
		svg("") + `<x:y xmlns:x="z"/>`,
	} {
		if got, _, err := CleanLogo([]byte(logo)); err == nil {
			wellFormed(t, got)
		}
	}
}

// TestHostileSVG: what is known to act in some reader of SVG is refused, or comes out as something that does not.
func TestHostileSVG(t *testing.T) {
	t.Parallel()
	const xlink = ` xmlns:xlink="http://www.w3.org/1999/xlink"`
	utf16be := func(s string) string {
		b := []byte{0xfe, 0xff}
		for _, u := range utf16.Encode([]rune(s)) {
			b = append(b, byte(u>>8), byte(u&0xff))
		}
		return string(b)
	}
	laughs := `<!DOCTYPE x [<!ENTITY a "ha">`
	for c := 'b'; c < 'k'; c++ {
		laughs += `<!ENTITY ` + string(c) + ` "` + strings.Repeat("&"+string(c-1)+";", 10) + `">`
	}
	for _, logo := range []string{
		svg(`<foreignObject><body xmlns="http://www.w3.org/1999/xhtml"><script>alert(1)</script></body></foreignObject>`),
		svg(`<g><foreignObject requiredExtensions="x"><iframe src="javascript:alert(1)"/></foreignObject></g>`),
		svg(`<animate xlink:href="#x" attributeName="href" values="javascript:alert(1)"` + xlink + `/>`),
		svg(`<a><animate attributeName="href" values="javascript:alert(1)"/></a>`),
		svg(`<rect><set attributeName="onmouseover" to="alert(1)"/></rect>`),
		svg(`<animateMotion/>`), svg(`<AnimateColor/>`), svg(`<discard/>`), svg(`<handler/>`), svg(`<listener/>`),
		svg(`<use href="data:image/svg+xml;base64,PHN2Zz4=#x"/>`),
		svg(`<use xlink:href="data:,x#x"` + xlink + `/>`),
		svg(`<style>@import url("//evil.example/x.css");</style>`),
		svg(`<style>@\69mport "x";</style>`),
		svg(`<style><![CDATA[@import "x";]]></style>`),
		svg(`<style><![CDATA[</style><script>alert(1)</script>]]></style>`),
		svg(`<style>*{x:expression(alert(1))}</style>`),
		svg(`<style>.a{fill:u/**/rl(//evil.example)}</style>`),
		svg(`<style>.a{fill:\75rl(//evil.example)}</style>`),
		svg(`<style>.a{fill:URL(//evil.example)}</style>`),
		svg(`<style>.a{fill:image-set("x" 1x)}</style>`),
		svg(`<style>.a{clip-path:src("x")}</style>`),
		svg(`<style>.a{-moz-binding:url(x)}</style>`),
		svg(`<style>a:hover{fill:red}</style>`),
		svg(`<style>[id^=a]{fill:red}</style>`),
		svg(`<g oNlOaD="alert(1)"/>`), svg(`<g onbegin="1"/>`), svg(`<rect ON="1"/>`), svg("<g on\tload='1'/>"), svg(`<g/onload=alert(1)>`),
		svg(`<g onload&#61;"1"/>`), svg(`<g x:onload="1" xmlns:x="http://www.w3.org/2000/svg"/>`),
		svg(`<x:script xmlns:x="http://www.w3.org/2000/svg">alert(1)</x:script>`),
		svg(`<x:sCrIpT xmlns:x="y">alert(1)</x:sCrIpT>`),
		svg(`<h:img xmlns:h="http://www.w3.org/1999/xhtml" src="x" onerror="alert(1)"/>`),
		svg(`<h:body xmlns:h="http://www.w3.org/1999/xhtml" onload="alert(1)"/>`),
		svg(`<desc><h:script xmlns:h="http://www.w3.org/1999/xhtml">1</h:script></desc>`),
		svg(`<title>&lt;script&gt;alert(1)&lt;/script&gt;</title>`),
		svg(`<rect fill="&#x75;rl(&#47;/evil.example)"/>`),
		svg(`<rect fill="url(&quot;javascript:alert(1)&quot;)"/>`),
		svg(`<rect filter="url(//evil.example#f)"/>`), svg(`<rect cursor="url(x),auto"/>`), svg(`<rect marker-start="url(x#m)"/>`),
		svg(`<rect style="fill:red;background-image:url(//evil.example/x)"/>`),
		svg(`<rect style="fill:red;-x:expression(1)"/>`),
		svg(`<rect fill="red&#34; onload=&#34;alert(1)"/>`),
		svg(`<rect id="&quot;&gt;&lt;script&gt;"/>`),
		svg(`<rect class="a&#34; onload=&#34;b"/>`),
		svg(`<linearGradient href="#a&quot; onload=&quot;x"/>`),
		svg(`<linearGradient href=" javascript:alert(1)#a"/>`),
		svg(`<mpath href="#a"/>`), svg(`<feImage href="x"/>`), svg(`<tref href="x"/>`), svg(`<cursor href="x"/>`), svg(`<font-face-uri href="x"/>`),
		svg(`<switch><g/></switch>`), svg(`<symbol id="x"/>`), svg(`<view/>`), svg(`<metadata><foreignObject/></metadata>`),
		laughs + `]>` + svg(`&j;`),
		`<!DOCTYPE svg SYSTEM "http://evil.example/x.dtd">` + svg(""),
		`<!DOCTYPE svg [<!ATTLIST svg onload CDATA "alert(1)">]>` + svg(""),
		`<!DOCTYPE svg [<!ENTITY % x SYSTEM "file:///etc/passwd"> %x;]>` + svg(""),
		`<?xml version="1.0"?><?xml-stylesheet type="text/xsl" href="data:,x"?>` + svg(""),
		`<?xml version="1.0" encoding="UTF-7"?>` + svg("+ADw-script+AD4-"),
		utf16be(svg("<script/>")), "\x1f\x8b\x08\x00", "\xef\xbb\xbf" + svg("<script/>"), "\x00" + svg(""), svg("\x00"), svg("<g\x0bonload='1'/>"),
		`<svg xmlns="http://www.w3.org/2000/svg" xmlns:x="http://www.w3.org/2000/svg" x:onload="1" viewBox="0 0 1 1">` + svgShape + `</svg>`,
	} {
		got, _, err := CleanLogo([]byte(logo))
		if err != nil {
			continue
		}
		harmless(t, got)
		wellFormed(t, got)
		if low := strings.ToLower(string(got)); strings.Contains(low, "script") || strings.Contains(low, "evil") || strings.Contains(low, "alert") || strings.Contains(low, "onload=") && !strings.Contains(low, "&#34;") {
			t.Errorf("%s\nbecomes\n%s", logo, got)
		}
	}
}

// The largest logo that there may be is read in one go: all other writes wait for a provider's change.
// It is not parallel, since it counts what is allocated.
func TestLargeSVG(t *testing.T) {
	for name, logo := range map[string]string{
		"functions": svg(`<g transform="` + strings.Repeat("scale(1)", 31<<10) + `"/>`), // was 8 s and 4 GB
		"brackets":  svg(`<g transform="` + strings.Repeat("scale(", 40<<10) + `"/>`),
		"urls":      svg(`<g style="` + strings.Repeat("fill:url(#a);", 19<<10) + `"/>`),
		"rules":     svg(`<style>` + strings.Repeat(".a{}", 60<<10) + `</style>`),
		"comments":  svg(`<style>` + strings.Repeat("/*", 120<<10) + `</style>`),
		"spaces":    svg(`<g d="` + strings.Repeat("a ", 120<<10) + `("/>`),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, _ = CleanLogo([]byte(logo))
		runtime.ReadMemStats(&after)
		if n := (after.TotalAlloc - before.TotalAlloc) >> 20; n > 2048 { // with the race detector, which keeps no pools, up to 700
			t.Errorf("%s: %d MB were allocated", name, n)
		}
	}
}
