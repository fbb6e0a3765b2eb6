package event

import (
	"io"
	"mime"
	"net/mail"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/emersion/go-message/charset"
	"github.com/rivo/uniseg"
)

// Texts are cut after decoding, in bytes: a long Subject must not silence a phone. No provider carries
// more than 4 KiB in all.
const (
	MaxSender  = 256
	MaxAddress = 320
	MaxSubject = 1024
	// maxRaw is as much of a header field as is decoded. It is far more than the above can need, and
	// bounds what a stranger's mail costs: a megabyte of encoded words takes more than a second.
	maxRaw = 16 << 10
)

// wordDecoder decodes RFC 2047 encoded words in any charset that is in use, which a language may follow
// (RFC 2231 section 5).
var wordDecoder = mime.WordDecoder{CharsetReader: func(name string, text io.Reader) (io.Reader, error) {
	name, _, _ = strings.Cut(name, "*")
	return charset.Reader(name, text)
}}

// unfold undoes RFC 5322 section 2.2.3.
var unfold = strings.NewReplacer("\r", "", "\n", "")

// header makes one line of a raw field body, of reasonable length.
func header(raw string) string { return unfold.Replace(raw[:min(len(raw), maxRaw)]) }

// decodeWords decodes encoded words; what cannot be decoded stays as it is.
func decodeWords(line string) string {
	decoded, err := wordDecoder.DecodeHeader(line)
	if err != nil {
		return line
	}
	return decoded
}

// Subject reads a raw Subject value: decoded, on one line, cut to MaxSubject.
func Subject(raw string) string { return clean(decodeWords(header(raw)), MaxSubject) }

// Author reads a raw From value: the display name, else the address, and the address.
func Author(raw string) (sender, address string) {
	line := header(raw)
	parser := mail.AddressParser{WordDecoder: &wordDecoder}
	if list, err := parser.ParseList(line); err == nil && len(list) > 0 {
		sender, address = list[0].Name, list[0].Address
	} else if name, rest, ok := strings.Cut(line, "<"); ok && strings.Contains(rest, ">") {
		// Not RFC 5322, and common: "Firm [Sales] <a@b>", a charset that nobody knows.
		address, _, _ = strings.Cut(rest, ">")
		sender = strings.Trim(name, " \t\"")
	} else {
		sender = line
	}
	return Sender(sender, address)
}

// Sender is Author for a value that a mail server has taken apart (RFC 9051 section 7.5.2, "envelope").
func Sender(name, addr string) (sender, address string) {
	address = clean(header(addr), MaxAddress)
	// A name in quotes is not decoded by the parser, as it should not be by the RFC; many are encoded.
	if sender = clean(decodeWords(header(name)), MaxSender); sender == "" {
		sender = clean(address, MaxSender)
	}
	return sender, address
}

// clean makes a text fit for a screen: one line, valid UTF-8, no control characters, no characters that
// turn the reading direction (a name could hide its end with them), at most size bytes, cut between
// characters as people see them.
func clean(s string, size int) string {
	if len(s) <= size && isClean(s) {
		return s
	}
	var b strings.Builder
	space := false
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		switch {
		case unicode.IsSpace(r):
			space = b.Len() > 0
			continue
		case unicode.IsControl(r) || turnsDirection(r):
			continue
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		b.WriteRune(r)
	}
	return cut(b.String(), size)
}

// isClean reports what most texts are: printable ASCII with single spaces inside.
func isClean(s string) bool {
	last := byte(' ')
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' || s[i] == ' ' && last == ' ' {
			return false
		}
		last = s[i]
	}
	return s == "" || last != ' '
}

// cut shortens s to at most size bytes, between two grapheme clusters; inside one only when the first is
// longer than that.
func cut(s string, size int) string {
	if len(s) <= size {
		return s
	}
	end, state := 0, -1
	for rest := s; rest != ""; {
		var cluster string
		cluster, rest, _, state = uniseg.FirstGraphemeClusterInString(rest, state)
		if end+len(cluster) > size {
			break
		}
		end += len(cluster)
	}
	if end == 0 {
		end = size
		for !utf8.RuneStart(s[end]) {
			end--
		}
	}
	return strings.TrimRight(s[:end], " ")
}

// turnsDirection reports the explicit bidirectional controls (Unicode UAX #9).
func turnsDirection(r rune) bool {
	return r >= 0x202A && r <= 0x202E || r >= 0x2066 && r <= 0x2069
}
