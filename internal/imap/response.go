package imap

import (
	"fmt"
	"strings"
)

// The tags that are none (RFC 9051 section 2.2.2).
const (
	untagged     = "*"
	continuation = "+"
)

// maxCode bounds the name of a response code, in bytes.
const maxCode = 40

// A response is the whole of a status or continuation, or the head of other data, which the decoder
// stands right behind then.
type response struct {
	tag string // untagged, continuation, or that of the command it ends

	// Of a status response (RFC 9051 section 7.1).
	status   string // OK, NO, BAD, BYE, PREAUTH; "" for other data
	code     string // upper case; "" when there is none
	codeArgs string // raw
	text     string // also of a continuation

	// Of other data.
	number uint32 // of "* 5 EXISTS"
	name   string // upper case: "EXISTS", "METADATA"
}

// err makes a status response the error it stands for.
func (r response) err() error {
	return &ResponseError{Status: r.status, Code: r.code, Text: cutError(r.text)}
}

// cutError bounds what reaches an error.
func cutError(text string) string {
	if len(text) > maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText], "")
	}
	return text
}

// conceal removes what the server says if it repeats a secret. The comparison ignores case, as codes
// are in upper case by now.
func (r *response) conceal(secrets []string) {
	for _, s := range secrets {
		s = strings.ToUpper(s)
		if strings.Contains(strings.ToUpper(r.text), s) {
			r.text = "(withheld, since it repeats a secret)"
		}
		if strings.Contains(r.code, s) {
			r.code = ""
		}
	}
}

// response reads the head of the next response.
func (d *decoder) response() (r response, err error) {
	d.begin()
	switch b, err := d.peek(); {
	case err != nil:
		return r, err
	case b == '+':
		return d.continuation()
	case b == '*':
		r.tag = untagged
		if err := d.expect('*'); err != nil {
			return r, err
		}
	default:
		if r.tag, err = d.atom(); err != nil {
			return r, fmt.Errorf("tag: %w", err)
		}
	}
	if err := d.expect(' '); err != nil {
		return r, err
	}
	if b, err := d.peek(); err == nil && b >= '0' && b <= '9' && r.tag == untagged {
		if r.number, err = d.number(); err != nil {
			return r, err
		}
		if err := d.expect(' '); err != nil {
			return r, err
		}
	}
	name, err := d.atom()
	if err != nil {
		return r, fmt.Errorf("response name: %w", err)
	}
	name = strings.ToUpper(name)
	switch name {
	case "OK", "NO", "BAD", "BYE", "PREAUTH":
		r.status = name
		return r, d.statusText(&r)
	}
	if r.tag != untagged {
		return r, errSyntax
	}
	r.name = name
	return r, nil
}

// continuation reads a command continuation request. Some servers leave the space out.
func (d *decoder) continuation() (r response, err error) {
	r.tag = continuation
	if err := d.expect('+'); err != nil {
		return r, err
	}
	if _, err := d.accept(' '); err != nil {
		return r, err
	}
	if r.text, err = d.text(); err != nil {
		return r, err
	}
	return r, d.crlf()
}

// statusText reads the code and the text of a status response. The grammar wants a space and a text;
// real servers leave both out.
func (d *decoder) statusText(r *response) error {
	if ok, err := d.accept(' '); err != nil || !ok {
		return d.orCRLF(err)
	}
	ok, err := d.accept('[')
	if err != nil {
		return err
	}
	if ok {
		code, err := d.until(']')
		if err != nil {
			return fmt.Errorf("response code: %w", err)
		}
		if err := d.expect(']'); err != nil {
			return fmt.Errorf("response code: %w", err)
		}
		name, args, _ := strings.Cut(code, " ")
		if len(name) <= maxCode && isAtom(name) { // others have no meaning, and would reach the log
			r.code, r.codeArgs = strings.ToUpper(name), args
		}
		if _, err := d.accept(' '); err != nil {
			return err
		}
	}
	if r.text, err = d.text(); err != nil {
		return err
	}
	return d.crlf()
}

// orCRLF returns err, or wants the end of the line.
func (d *decoder) orCRLF(err error) error {
	if err != nil {
		return err
	}
	return d.crlf()
}
