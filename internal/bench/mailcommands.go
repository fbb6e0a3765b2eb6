package bench

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// What Dovecot 2.3 offers before and after the login, without METADATA and NOTIFY.
const (
	capabilitiesBefore = "IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ AUTH=PLAIN AUTH=LOGIN"
	capabilitiesAfter  = "IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE SORT THREAD=REFERENCES MULTIAPPEND UNSELECT CHILDREN " +
		"NAMESPACE UIDPLUS LIST-EXTENDED I18NLEVEL=1 CONDSTORE QRESYNC ESEARCH SEARCHRES WITHIN LIST-STATUS BINARY MOVE " +
		"PREVIEW STATUS=SIZE SAVEDATE LITERAL+"
)

// The mailbox that everybody has: so many messages, all read.
const (
	boxMessages = 12
	boxValidity = 1700000000
	boxModSeq   = 20
)

// maxCommand bounds a command with its literals.
const maxCommand = 64 << 10

// readCommand reads a command with its literals (RFC 9051 section 4.3) and splits it: a parenthesis is a
// word of its own.
func (c *mailConn) readCommand() ([]string, error) {
	var words []string
	size := 0
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			return nil, err
		}
		if size += len(line); size > maxCommand {
			return nil, io.ErrShortBuffer
		}
		line = strings.TrimRight(line, "\r\n")
		open := strings.LastIndexByte(line, '{')
		if open < 0 || !strings.HasSuffix(line, "}") {
			return append(words, splitWords(line)...), nil
		}
		count := line[open+1 : len(line)-1]
		count, noWait := strings.CutSuffix(count, "+")
		n, err := strconv.Atoi(count)
		if err != nil || n < 0 || n > maxCommand {
			return nil, io.ErrShortBuffer
		}
		if !noWait {
			if err := c.write("+ OK\r\n"); err != nil {
				return nil, err
			}
		}
		text := make([]byte, n)
		if _, err := io.ReadFull(c.in, text); err != nil {
			return nil, err
		}
		words = append(append(words, splitWords(line[:open])...), string(text))
	}
}

// splitWords splits a line into atoms, quoted strings without their quotes, and parentheses.
func splitWords(line string) []string {
	var words []string
	for i := 0; i < len(line); {
		switch line[i] {
		case ' ':
			i++
		case '(', ')':
			words = append(words, line[i:i+1])
			i++
		case '"':
			var b strings.Builder
			for i++; i < len(line) && line[i] != '"'; i++ {
				if line[i] == '\\' && i+1 < len(line) {
					i++
				}
				b.WriteByte(line[i])
			}
			i++
			words = append(words, b.String())
		default:
			end := i
			for end < len(line) && !strings.ContainsRune(" ()", rune(line[end])) {
				end++
			}
			words = append(words, line[i:end])
			i = end
		}
	}
	return words
}

// command reads one and answers it.
func (c *mailConn) command() error {
	words, err := c.readCommand()
	if err != nil {
		return err
	}
	if len(words) < 2 {
		return c.write("* BAD No command.\r\n")
	}
	tag, name, args := words[0], strings.ToUpper(words[1]), words[2:]
	if name == "UID" && len(args) > 0 {
		name, args = "UID "+strings.ToUpper(args[0]), args[1:]
	}
	c.s.mu.Lock()
	c.s.commands[name]++
	c.s.mu.Unlock()
	ok := func(untagged string) error { return c.write(untagged + tag + " OK " + name + " completed.\r\n") }
	switch name {
	case "CAPABILITY":
		offered := capabilitiesBefore
		if c.user {
			offered = capabilitiesAfter
		}
		return ok("* CAPABILITY " + offered + "\r\n")
	case "ID":
		return ok("* ID (\"name\" \"bench\")\r\n")
	case "NOOP":
		return ok("")
	case "LOGOUT":
		if err := ok("* BYE Logging out\r\n"); err != nil {
			return err
		}
		return io.EOF
	case "LOGIN":
		return c.login(tag)
	case "AUTHENTICATE":
		if len(args) == 1 { // no initial response: a challenge that is empty
			if err := c.write("+ \r\n"); err != nil {
				return err
			}
			if _, err := c.in.ReadString('\n'); err != nil {
				return err
			}
		}
		return c.login(tag)
	}
	if !c.user {
		return c.write(tag + " BAD Log in first.\r\n")
	}
	switch name {
	case "ENABLE":
		return ok("* ENABLED " + strings.ToUpper(strings.Join(args, " ")) + "\r\n")
	case "SELECT", "EXAMINE":
		if len(args) == 0 || !strings.EqualFold(args[0], "INBOX") {
			return c.write(tag + " NO [NONEXISTENT] Mailbox doesn't exist\r\n")
		}
		return c.write(`* FLAGS (\Answered \Flagged \Deleted \Seen \Draft)` + "\r\n* OK [PERMANENTFLAGS ()] Read-only mailbox.\r\n" +
			fmt.Sprintf("* %d EXISTS\r\n* 0 RECENT\r\n* OK [UIDVALIDITY %d] UIDs valid\r\n* OK [UIDNEXT %d] Predicted next UID\r\n"+
				"* OK [HIGHESTMODSEQ %d] Highest\r\n%s OK [READ-ONLY] %s completed.\r\n", boxMessages, boxValidity, boxMessages+1, boxModSeq, tag, name))
	case "STATUS":
		if len(args) == 0 || !strings.EqualFold(args[0], "INBOX") {
			return c.write(tag + " NO [NONEXISTENT] Mailbox doesn't exist\r\n")
		}
		return ok(statusLine(args[1:]))
	case "LIST":
		line := `* LIST (\HasNoChildren) "/" INBOX` + "\r\n"
		if i := slices.IndexFunc(args, func(w string) bool { return strings.EqualFold(w, "STATUS") }); i >= 0 {
			line += statusLine(args[i+1:])
		}
		return ok(line)
	case "UID FETCH", "FETCH":
		return ok(fetchLines(args))
	case "UID SEARCH":
		return ok(searchLine(tag, args))
	case "IDLE":
		return c.idle(tag)
	case "UNSELECT", "CLOSE":
		return ok("")
	}
	return c.write(tag + " BAD Unknown command.\r\n")
}

func (c *mailConn) login(tag string) error {
	if !c.s.login() {
		return c.write(tag + " NO [UNAVAILABLE] Too many logins.\r\n")
	}
	c.user = true
	return c.write(tag + " OK [CAPABILITY " + capabilitiesAfter + "] Logged in\r\n")
}

// statusLine answers the items of the parenthesis that words begin with, in their order.
func statusLine(words []string) string {
	values := map[string]int{
		"MESSAGES": boxMessages, "UIDNEXT": boxMessages + 1, "UIDVALIDITY": boxValidity, "UNSEEN": 0, "RECENT": 0,
		"HIGHESTMODSEQ": boxModSeq, "SIZE": boxMessages * 1000, "DELETED": 0,
	}
	var items []string
	for _, w := range words {
		if w == ")" {
			break
		}
		if v, ok := values[strings.ToUpper(w)]; ok {
			items = append(items, strings.ToUpper(w)+" "+strconv.Itoa(v))
		}
	}
	return "* STATUS INBOX (" + strings.Join(items, " ") + ")\r\n"
}

// inSet says whether n is in a sequence set, where "*" is the last message.
func inSet(set string, n int) bool {
	number := func(s string) int {
		if s == "*" {
			return boxMessages
		}
		v, _ := strconv.Atoi(s)
		return v
	}
	for one := range strings.SplitSeq(set, ",") {
		from, to, ranged := strings.Cut(one, ":")
		if !ranged {
			to = from
		}
		a, b := number(from), number(to)
		if n >= min(a, b) && n <= max(a, b) {
			return true
		}
	}
	return false
}

// fetchLines answers a FETCH: sequence numbers and UIDs are the same here.
func fetchLines(args []string) string {
	if len(args) == 0 {
		return ""
	}
	has := map[string]bool{}
	since := 0
	for i, w := range args[1:] {
		has[strings.ToUpper(w)] = true
		if strings.EqualFold(w, "CHANGEDSINCE") && i+2 < len(args) {
			since, _ = strconv.Atoi(args[i+2])
		}
	}
	if since >= boxModSeq {
		return ""
	}
	var b strings.Builder
	for n := 1; n <= boxMessages; n++ {
		if !inSet(args[0], n) {
			continue
		}
		fmt.Fprintf(&b, "* %d FETCH (UID %d", n, n)
		for _, item := range []struct{ name, text string }{
			{"FLAGS", `(\Seen)`},
			{"MODSEQ", fmt.Sprintf("(%d)", boxModSeq)},
			{"INTERNALDATE", `"01-Nov-2026 10:00:00 +0000"`},
			{"RFC822.SIZE", "1000"},
			{"PREVIEW", `"Dear all"`},
			{"ENVELOPE", `("Sun, 1 Nov 2026 10:00:00 +0000" "Minutes" (("Erika" NIL "erika" "example.org")) (("Erika" NIL "erika" "example.org")) ` +
				`(("Erika" NIL "erika" "example.org")) NIL NIL NIL NIL "<` + strconv.Itoa(n) + `@example.org>")`},
		} {
			if has[item.name] || item.name == "MODSEQ" && since > 0 {
				b.WriteString(" " + item.name + " " + item.text)
			}
		}
		b.WriteString(")\r\n")
	}
	return b.String()
}

// searchLine answers a search for what is unread, which is nothing, or else for everything in the sets of
// UIDs that it names.
func searchLine(tag string, args []string) string {
	var found []string
	set, unread := "1:*", false
	returned := map[string]bool{}
	extended := len(args) > 0 && strings.EqualFold(args[0], "RETURN")
	for i, w := range args {
		switch w = strings.ToUpper(w); w {
		case "UNSEEN", "NEW", "RECENT":
			unread = true
		case "UID":
			if i+1 < len(args) {
				set = args[i+1]
			}
		case "MIN", "MAX", "COUNT", "ALL":
			returned[w] = true
		}
	}
	for n := 1; n <= boxMessages && !unread; n++ {
		if inSet(set, n) {
			found = append(found, strconv.Itoa(n))
		}
	}
	if !extended {
		return strings.TrimRight("* SEARCH "+strings.Join(found, " "), " ") + "\r\n"
	}
	line := `* ESEARCH (TAG "` + tag + `") UID`
	if len(found) > 0 {
		if returned["MIN"] {
			line += " MIN " + found[0]
		}
		if returned["MAX"] {
			line += " MAX " + found[len(found)-1]
		}
		if returned["ALL"] || len(returned) == 0 {
			line += " ALL " + strings.Join(found, ",")
		}
	}
	if returned["COUNT"] {
		line += " COUNT " + strconv.Itoa(len(found))
	}
	return line + "\r\n"
}
