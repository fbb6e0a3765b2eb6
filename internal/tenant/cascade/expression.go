package cascade

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Expression is a condition over tags: "webmail & (premium | trial) & !blocked". & binds more tightly than |, and
// tags have no case.
type Expression struct {
	text string
	root *node
}

const (
	// maxExpression bounds an expression in bytes, and so its tags.
	maxExpression = 1024
	// maxDepth bounds how deep parentheses and ! nest.
	maxDepth = 32
	maxTag   = 64
)

type node struct {
	op   byte // '&', '|', '!', or 0 for a tag
	tag  string
	kids []*node
}

func (e Expression) String() string { return e.text }

// Matches reports whether the condition holds for somebody with tags, which are as CheckTag returns them. The zero
// Expression holds for nobody.
func (e Expression) Matches(tags []string) bool { return e.root != nil && e.root.matches(tags) }

func (n *node) matches(tags []string) bool {
	is := func(k *node) bool { return k.matches(tags) }
	switch n.op {
	case '&':
		return !slices.ContainsFunc(n.kids, func(k *node) bool { return !is(k) })
	case '|':
		return slices.ContainsFunc(n.kids, is)
	case '!':
		return !is(n.kids[0])
	}
	return slices.Contains(tags, n.tag)
}

// CheckTag returns the normal form of a tag: lower case.
func CheckTag(tag string) (string, error) {
	if tag == "" || len(tag) > maxTag || strings.ContainsFunc(tag, notOfTag) || !utf8.ValidString(tag) {
		return "", fmt.Errorf("%q is no tag: it has 1 to %d bytes of letters, digits and - _ . : / @ +", tag, maxTag)
	}
	return strings.ToLower(tag), nil
}

func notOfTag(r rune) bool {
	return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_.:/@+", r)
}

// ParseExpression reads a condition. The error says at which byte, from 1, it cannot be understood.
func ParseExpression(text string) (Expression, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return Expression{}, errors.New("is empty: say which tags, such as webmail & (premium | trial)")
	}
	if len(text) > maxExpression {
		return Expression{}, fmt.Errorf("is longer than %d bytes", maxExpression)
	}
	p := expressionParser{text: text}
	root, err := p.either(0)
	if err == nil && p.peek() != 0 {
		err = p.expected("& or |")
	}
	if err != nil {
		return Expression{}, err
	}
	return Expression{text, root}, nil
}

type expressionParser struct {
	text string
	at   int
}

// peek returns the next byte that is no space, 0 at the end.
func (p *expressionParser) peek() byte {
	for p.at < len(p.text) && (p.text[p.at] == ' ' || p.text[p.at] == '\t') {
		p.at++
	}
	if p.at == len(p.text) {
		return 0
	}
	return p.text[p.at]
}

func (p *expressionParser) expected(what string) error {
	found := "the end"
	if p.peek() != 0 {
		r, _ := utf8.DecodeRuneInString(p.text[p.at:])
		found = fmt.Sprintf("%q", r)
	}
	return fmt.Errorf("expected %s at character %d, found %s; the form is webmail & (premium | trial) & !blocked", what, p.at+1, found)
}

func (p *expressionParser) either(depth int) (*node, error) { return p.list(depth, '|', p.both) }

func (p *expressionParser) both(depth int) (*node, error) { return p.list(depth, '&', p.one) }

// list reads parts with an operator between them, which may be doubled.
func (p *expressionParser) list(depth int, op byte, part func(int) (*node, error)) (*node, error) {
	n := &node{op: op}
	for {
		kid, err := part(depth)
		if err != nil {
			return nil, err
		}
		n.kids = append(n.kids, kid)
		if p.peek() != op {
			break
		}
		if p.at++; p.at < len(p.text) && p.text[p.at] == op {
			p.at++
		}
	}
	if len(n.kids) == 1 {
		return n.kids[0], nil
	}
	return n, nil
}

func (p *expressionParser) one(depth int) (*node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("has parentheses and ! deeper than %d", maxDepth)
	}
	switch p.peek() {
	case '!':
		p.at++
		kid, err := p.one(depth + 1)
		if err != nil {
			return nil, err
		}
		return &node{op: '!', kids: []*node{kid}}, nil
	case '(':
		p.at++
		n, err := p.either(depth + 1)
		if err != nil {
			return nil, err
		}
		if p.peek() != ')' {
			return nil, p.expected(")")
		}
		p.at++
		return n, nil
	}
	rest := p.text[p.at:]
	end := strings.IndexFunc(rest, notOfTag)
	if end < 0 {
		end = len(rest)
	}
	if end == 0 {
		return nil, p.expected("a tag, ! or (")
	}
	tag, err := CheckTag(rest[:end])
	if err != nil {
		return nil, err
	}
	p.at += end
	return &node{tag: tag}, nil
}
