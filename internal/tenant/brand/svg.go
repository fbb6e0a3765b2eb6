package brand

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

const (
	svgSpace   = "http://www.w3.org/2000/svg"
	xlinkSpace = "http://www.w3.org/1999/xlink"
	// maxElements and maxDepth bound what a browser has to draw.
	maxElements, maxDepth = 5000, 32
)

// svgElements are the shapes, and what paints them.
var svgElements = set(`svg g defs path rect circle ellipse line polyline polygon linearGradient radialGradient stop clipPath mask style`)

// svgAttributes are those of svgElements that are kept; the others are dropped, but for those that are refused.
var svgAttributes = set(`viewBox width height x y x1 y1 x2 y2 cx cy r rx ry fx fy fr d points pathLength transform preserveAspectRatio
	id class fill fill-opacity fill-rule stroke stroke-width stroke-opacity stroke-linecap stroke-linejoin stroke-miterlimit
	stroke-dasharray stroke-dashoffset opacity color display visibility overflow vector-effect paint-order shape-rendering
	clip-path clip-rule clipPathUnits mask mask-type maskUnits maskContentUnits
	gradientUnits gradientTransform spreadMethod offset stop-color stop-opacity mix-blend-mode isolation`)

// svgAdvice says what to do about elements that are often there and cannot stay.
var svgAdvice = map[string]string{
	"script":        "holds a script: remove it, a logo is a picture",
	"foreignobject": "holds a foreign object: remove it, or draw it as paths",
	"image":         "holds an image within the image: save it as PNG, or draw it as paths",
	"feimage":       "holds an image within the image: save it as PNG, or draw it as paths",
	"use":           "uses a copy of another element (use): turn copies into paths (in Inkscape: Edit > Clone > Unlink)",
	"text":          "holds text, which looks different with other fonts: turn it into paths (in Inkscape: Path > Object to Path)",
	"a":             "holds a link: remove it",
	"animate":       "is animated: save it without",
	"set":           "is animated: save it without",
	"filter":        "holds a filter: save it as PNG, or without effects",
	"pattern":       "holds a pattern: save it as PNG, or draw it as paths",
	"iframe":        "holds a foreign object: remove it, or draw it as paths",
	"object":        "holds a foreign object: remove it, or draw it as paths",
	"embed":         "holds a foreign object: remove it, or draw it as paths",
	"link":          "refers to another file: remove the link element",
}

func set(words string) map[string]bool {
	m := map[string]bool{}
	for w := range strings.FieldsSeq(words) {
		m[w] = true
	}
	return m
}

var (
	// attributeValue is all that numbers, colours, lists and functions are made of. There is no colon, and so no scheme.
	attributeValue = regexp.MustCompile(`^[A-Za-z0-9#%.,()+\-_\s'"]*$`)
	function       = regexp.MustCompile(`([A-Za-z-]*)\s*\(([^()]*)\)`)
	functions      = set(`rgb rgba hsl hsla matrix translate scale rotate skewX skewY`)
	identifier     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)
	selector       = regexp.MustCompile(`^[.#]?[A-Za-z_][A-Za-z0-9_-]*$`)
	comment        = regexp.MustCompile(`(?s)/\*.*?\*/`)
)

var errNotSVG = errors.New(`is no SVG file: its outermost element must be <svg xmlns="` + svgSpace + `">`)

// svgWriter is one call of cleanSVG.
type svgWriter struct {
	out      bytes.Buffer
	elements int
	open     []string // the elements that are open, and kept
}

// cleanSVG reads XML and writes what is allowed of it.
func cleanSVG(body []byte) ([]byte, error) {
	w := &svgWriter{}
	d := xml.NewDecoder(bytes.NewReader(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("is no well-formed XML in UTF-8 (%w): save it again as plain SVG", err)
		}
		switch token := token.(type) {
		case xml.Directive:
			return nil, errors.New("has a DOCTYPE or entities: save it again as plain SVG, or remove all that begins with <! but is no comment")
		case xml.ProcInst:
			if token.Target != "xml" {
				return nil, errors.New("refers to another file: remove the lines that begin with <?, but for the first")
			}
		case xml.StartElement:
			if err := w.start(d, token); err != nil {
				return nil, err
			}
		case xml.EndElement:
			w.open = w.open[:len(w.open)-1]
			w.out.WriteString("</" + token.Name.Local + ">")
		}
	}
	if w.elements == 0 {
		return nil, errNotSVG
	}
	if w.elements == 1 {
		return nil, errors.New("is empty: it holds no shape that can be shown")
	}
	return w.out.Bytes(), nil
}

func (w *svgWriter) start(d *xml.Decoder, e xml.StartElement) error {
	name := e.Name.Local
	lower := strings.ToLower(name)
	if strings.HasPrefix(lower, "animate") {
		lower = "animate"
	}
	if advice := svgAdvice[lower]; advice != "" { // in any namespace: browsers know it in more than one
		return errors.New(advice)
	}
	ours := e.Name.Space == svgSpace
	if w.elements == 0 && (!ours || name != "svg") {
		return errNotSVG
	}
	if w.elements > 0 && len(w.open) == 0 {
		return errors.New("has something behind its outermost element: save it again as plain SVG")
	}
	if !ours || lower == "metadata" || lower == "title" || lower == "desc" { // an editor's own, and words that nobody sees
		return dropped(d)
	}
	if !svgElements[name] || name == "svg" && w.elements > 0 {
		return fmt.Errorf("holds the element %s, which is not among shapes, gradients, clips and masks: save it as plain SVG without effects, or as PNG", short(name))
	}
	if w.elements++; w.elements > maxElements || len(w.open) >= maxDepth {
		return fmt.Errorf("has more than %d elements, or more than %d within each other: simplify it, or save it as PNG", maxElements, maxDepth)
	}
	if name == "style" {
		return w.style(d)
	}
	w.out.WriteString("<" + name)
	if name == "svg" {
		w.out.WriteString(` xmlns="` + svgSpace + `"`)
	}
	if err := w.attributes(e); err != nil {
		return err
	}
	w.out.WriteByte('>')
	w.open = append(w.open, name)
	return nil
}

// dropped reads to the end of an element that is left out. What is refused is refused there, too.
func dropped(d *xml.Decoder) error {
	for depth := 1; depth > 0; {
		token, err := d.Token()
		if err != nil {
			return fmt.Errorf("is no well-formed XML in UTF-8 (%w): save it again as plain SVG", err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			if lower := strings.ToLower(token.Name.Local); lower == "script" || lower == "foreignobject" {
				return errors.New(svgAdvice[lower])
			}
			depth++
		case xml.EndElement:
			depth--
		}
	}
	return nil
}

func (w *svgWriter) attributes(e xml.StartElement) error {
	has := map[string]string{} // what is written; a second one of a name would be no XML
	for _, a := range e.Attr {
		name, value := a.Name.Local, strings.TrimSpace(a.Value)
		lower := strings.ToLower(name)
		_, twice := has[name] // as href and xlink:href are
		switch {
		case strings.HasPrefix(lower, "on") && a.Name.Space == "":
			return fmt.Errorf("has an event handler (%s): remove it, a logo is a picture", short(name))
		case lower == "href" || lower == "src" || lower == "base":
			if lower == "href" && (a.Name.Space == "" || a.Name.Space == xlinkSpace) && strings.HasSuffix(e.Name.Local, "Gradient") && identifier.MatchString(strings.TrimPrefix(value, "#")) && strings.HasPrefix(value, "#") {
				if !twice {
					has[name] = value
					w.attribute("href", value)
				}
				continue
			}
			return fmt.Errorf("refers to something else (%s=%q): remove the reference, a logo must stand for itself", short(name), short(value))
		case a.Name.Space != "" || lower == "xmlns": // an editor's own
			continue
		case name == "style":
			declarations, err := styles(value)
			if err != nil {
				return err
			}
			if declarations != "" && !twice {
				has[name] = declarations
				w.attribute("style", declarations)
			}
			continue
		case twice, !svgAttributes[name]:
			continue
		}
		if err := w.checkValue(name, value); err != nil {
			return err
		}
		has[name] = value
		w.attribute(name, value)
	}
	if e.Name.Local == "svg" && has["viewBox"] == "" {
		width, height := strings.TrimSuffix(has["width"], "px"), strings.TrimSuffix(has["height"], "px")
		number := regexp.MustCompile(`^[0-9]+(\.[0-9]+)?$`)
		if !number.MatchString(width) || !number.MatchString(height) {
			return errors.New("has no viewBox: it cannot be shown at other sizes. Save it as plain SVG, with the page fitted to the drawing")
		}
		w.attribute("viewBox", "0 0 "+width+" "+height)
	}
	return nil
}

func (w *svgWriter) attribute(name, value string) {
	w.out.WriteString(" " + name + `="`)
	_ = xml.EscapeText(&w.out, []byte(value)) // a buffer takes everything
	w.out.WriteByte('"')
}

func (w *svgWriter) checkValue(name, value string) error {
	if name == "id" && !identifier.MatchString(value) {
		return fmt.Errorf("has the id %q: take letters, digits, hyphens and underscores", short(value))
	}
	if (name == "mask" || name == "clip-path") && (slices.Contains(w.open, "mask") || slices.Contains(w.open, "clipPath")) {
		return errors.New("clips or masks a clip or mask: simplify it, or save it as PNG")
	}
	return checkValue(name, value)
}

// checkValue refuses all that leads elsewhere: what a browser may read as an address has a scheme, or is in url().
func checkValue(name, value string) error {
	if !attributeValue.MatchString(value) {
		return fmt.Errorf("has the value %q in %s, which is neither number, colour nor shape: remove it", short(value), short(name))
	}
	for _, m := range function.FindAllStringSubmatch(value, -1) {
		argument := strings.Trim(strings.TrimSpace(m[2]), `'"`)
		if strings.EqualFold(m[1], "url") && strings.HasPrefix(argument, "#") && identifier.MatchString(argument[1:]) {
			continue
		}
		if strings.EqualFold(m[1], "url") {
			return fmt.Errorf("refers to something else (%s=%q): remove the reference, a logo must stand for itself", short(name), short(value))
		}
		if !functions[m[1]] {
			return fmt.Errorf("has the function %q in %s: save it as plain SVG", short(m[0]), short(name))
		}
	}
	if strings.ContainsAny(function.ReplaceAllString(value, ""), "()") { // one within another
		return fmt.Errorf("has the value %q in %s, which cannot be read: save it as plain SVG", short(value), short(name))
	}
	return nil
}

// styles keeps the declarations of a style whose properties are also attributes (SVG 2 section 6.6).
func styles(text string) (string, error) {
	var kept []string
	for declaration := range strings.SplitSeq(text, ";") {
		property, value, _ := strings.Cut(declaration, ":")
		property, value = strings.ToLower(strings.TrimSpace(property)), strings.TrimSpace(value)
		value = strings.TrimSpace(strings.TrimSuffix(value, "!important"))
		if property == "" {
			continue
		}
		if !svgAttributes[property] {
			if strings.Contains(strings.ToLower(value), "url") || strings.ContainsAny(value, `\<`) {
				return "", fmt.Errorf("refers to something else in a style (%s): remove it, a logo must stand for itself", short(property))
			}
			continue
		}
		if err := checkValue(property, value); err != nil {
			return "", err
		}
		kept = append(kept, property+":"+value)
	}
	return strings.Join(kept, ";"), nil
}

// style writes a style sheet of plain rules anew, as drawing programs make them.
func (w *svgWriter) style(d *xml.Decoder) error {
	var sheet strings.Builder
	for {
		token, err := d.Token()
		if err != nil {
			return fmt.Errorf("is no well-formed XML in UTF-8 (%w): save it again as plain SVG", err)
		}
		if text, ok := token.(xml.CharData); ok {
			sheet.Write(text)
			continue
		}
		if _, ok := token.(xml.EndElement); ok {
			break
		}
		if _, ok := token.(xml.Comment); !ok {
			return errors.New("has something other than text in its style: save it as plain SVG")
		}
	}
	var rules strings.Builder
	rest := strings.TrimSpace(comment.ReplaceAllString(sheet.String(), " "))
	for rest != "" {
		selectors, after, ok := strings.Cut(rest, "{")
		body, next, closed := strings.Cut(after, "}")
		if !ok || !closed || strings.Contains(body, "{") {
			return errors.New("has a style that cannot be read: save it as plain SVG, with presentation attributes")
		}
		rest = strings.TrimSpace(next)
		var names []string
		for name := range strings.SplitSeq(selectors, ",") {
			name = strings.TrimSpace(name)
			if !selector.MatchString(name) {
				return fmt.Errorf("has a style for %q, and only classes, ids and elements may have one: save it as plain SVG, with presentation attributes", short(name))
			}
			names = append(names, name)
		}
		declarations, err := styles(body)
		if err != nil {
			return err
		}
		if declarations != "" {
			rules.WriteString(strings.Join(names, ",") + "{" + declarations + "}")
		}
	}
	w.out.WriteString("<style>")
	_ = xml.EscapeText(&w.out, []byte(rules.String())) // a buffer takes everything
	w.out.WriteString("</style>")
	return nil
}

// short is a foreign text as an error quotes it.
func short(s string) string {
	runes := []rune(s)
	for i, r := range runes {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			runes[i] = '?'
		}
	}
	if len(runes) > 40 {
		return string(runes[:40]) + "…"
	}
	return string(runes)
}
