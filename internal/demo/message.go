package demo

import (
	"bytes"
	"errors"
	"html"
	"io"
	"mime"
	"regexp"
	"strings"
	"unicode/utf8"

	gomessage "github.com/emersion/go-message"
	"github.com/emersion/go-message/charset"
)

// maxSnippet is the length of Dovecot's snippet, in characters.
const maxSnippet = 200

// rawHeader returns a header field's value as it stands in the mail: words of RFC 2047 undecoded,
// folded lines kept with a bare LF.
func rawHeader(msg []byte, name string) (string, bool) {
	var value []byte
	found := false
	for line := range bytes.Lines(msg) {
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if line[0] == ' ' || line[0] == '\t' {
			if found {
				value = append(append(value, '\n'), line...)
			}
			continue
		}
		if found {
			break
		}
		key, v, ok := bytes.Cut(line, []byte(":"))
		if ok && strings.EqualFold(string(bytes.TrimRight(key, " \t")), name) {
			found, value = true, bytes.Clone(bytes.TrimLeft(v, " \t"))
		}
	}
	return string(value), found
}

// decodeHeader makes a raw header value readable, for our own display and comparison.
func decodeHeader(raw string) string {
	d := mime.WordDecoder{CharsetReader: charset.Reader}
	s, err := d.DecodeHeader(strings.ReplaceAll(raw, "\n", ""))
	if err != nil {
		s = raw
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// snippet returns the beginning of a mail's first text part in one line, without quoted lines.
func snippet(msg []byte) string {
	e, err := gomessage.Read(bytes.NewReader(msg))
	if e == nil || err != nil && !gomessage.IsUnknownCharset(err) && !gomessage.IsUnknownEncoding(err) {
		return ""
	}
	text, err := firstText(e, 0)
	if err != nil {
		return ""
	}
	var s strings.Builder
	for line := range strings.Lines(strings.ToValidUTF8(text, "\uFFFD")) {
		if strings.HasPrefix(line, ">") {
			continue
		}
		for word := range strings.FieldsSeq(line) {
			if s.Len() > 0 {
				s.WriteByte(' ')
			}
			s.WriteString(word)
		}
		if s.Len() > maxSnippet*utf8.UTFMax {
			break
		}
	}
	r := []rune(s.String())
	return string(r[:min(len(r), maxSnippet)])
}

var errNoText = errors.New("no text part")

// maxParts bounds how deep and how wide a multipart mail is searched.
const maxParts = 10

func firstText(e *gomessage.Entity, depth int) (string, error) {
	if parts := e.MultipartReader(); parts != nil && depth < maxParts {
		for range maxParts {
			part, err := parts.NextPart()
			if part == nil {
				return "", errors.Join(errNoText, err)
			}
			if text, err := firstText(part, depth+1); err == nil {
				return text, nil
			}
		}
		return "", errNoText
	}
	kind, _, err := e.Header.ContentType()
	if err != nil || !strings.HasPrefix(kind, "text/") {
		return "", errNoText
	}
	b, err := io.ReadAll(io.LimitReader(e.Body, 64<<10))
	if err != nil && len(b) == 0 {
		return "", err
	}
	if kind == "text/html" {
		return plain(string(b)), nil
	}
	return string(b), nil
}

var (
	invisible = regexp.MustCompile(`(?is)<(style|script|head|title)\b.*?</(style|script|head|title)>|<!--.*?-->`)
	tag       = regexp.MustCompile(`(?s)<[^>]*>`)
)

// plain is HTML as text, well enough for one line of it.
func plain(h string) string {
	return html.UnescapeString(tag.ReplaceAllString(invisible.ReplaceAllString(h, " "), " "))
}
