package imap

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

const greetBox = "S: * OK [CAPABILITY IMAP4rev1 ENABLE IDLE CONDSTORE QRESYNC ESEARCH LIST-EXTENDED LIST-STATUS SPECIAL-USE UNSELECT NOTIFY PREVIEW] hi\n"

// updates notes what a client's handler gets.
func updates(c *Client) *[]Update {
	all := &[]Update{}
	c.Handle(func(u Update) { *all = append(*all, u) })
	return all
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %+v, want %+v", what, got, want)
	}
}

func TestSelect(t *testing.T) {
	t.Parallel()
	c := play(t, greetBox+`C: p1 ENABLE QRESYNC
		S: * ENABLED QRESYNC condstore
		S: p1 OK
		C: p2 SELECT Entw&APw-rfe (QRESYNC (7 90060115194045000 1:2,9:*))
		S: * OK [CLOSED] old
		S: * FLAGS (\Seen \Deleted)
		S: * OK [PERMANENTFLAGS (\Seen \*)] ok
		S: * 3 EXISTS
		S: * 0 RECENT
		S: * OK [UIDVALIDITY 7] x
		S: * OK [UIDNEXT 12] x
		S: * OK [HIGHESTMODSEQ 90060115205545359] x
		S: * VANISHED (EARLIER) 1,5:3
		S: * 2 FETCH (UID 9 FLAGS (\Seen $x) MODSEQ (90060115205545000))
		S: p2 OK [READ-WRITE] done
		C: p3 EXAMINE inbox (CONDSTORE)
		S: * 3 EXISTS
		S: * OK [CLOSED] old
		S: * 4 EXISTS
		S: * OK [UIDVALIDITY 99999999999] x
		S: * OK [UIDNEXT x] x
		S: p3 OK [READ-ONLY] done
		C: p4 UNSELECT
		S: p4 OK
		C: p5 EXAMINE nosuch (CONDSTORE)
		S: p5 NO [NONEXISTENT] gone`)
	if _, err := c.Select(t.Context(), "Entwürfe", &Resync{UIDValidity: 7, ModSeq: 5}); err == nil {
		t.Error("QRESYNC before ENABLE")
	}
	enabled, err := c.Enable(t.Context(), "qresync")
	check(t, err, nil)
	equal(t, "enabled", enabled, []string{"QRESYNC", "CONDSTORE"})
	s, err := c.Select(t.Context(), "Entwürfe", &Resync{UIDValidity: 7, ModSeq: 90060115194045000, Known: UIDSet{{1, 2}, {9, Last}}})
	check(t, err, nil)
	equal(t, "selected", s, Selected{
		UIDValidity: 7, UIDNext: 12, Exists: 3, HighestModSeq: 90060115205545359,
		Vanished: UIDSet{{1, 1}, {3, 5}},
		Changed:  []Message{{Seq: 2, UID: 9, Has: FetchFlags | FetchModSeq, Flags: []string{`\Seen`, "$x"}, ModSeq: 90060115205545000}},
	})
	s, err = c.Examine(t.Context(), "inbox", nil)
	check(t, err, nil)
	equal(t, "examined", s, Selected{Exists: 4, ReadOnly: true})
	check(t, c.Unselect(t.Context()), nil)
	var refusal *ResponseError
	if _, err = c.Examine(t.Context(), "nosuch", nil); !errors.As(err, &refusal) || refusal.Code != "NONEXISTENT" {
		t.Errorf("no such mailbox: %v", err)
	}
	for _, x := range []string{"IMAP4rev2", "utf8=accept", "a b", ""} {
		if _, err := c.Enable(t.Context(), x); err == nil {
			t.Errorf("%q is enabled", x)
		}
	}
}

// TestOldServer: without extensions the commands are those of RFC 3501.
func TestOldServer(t *testing.T) {
	t.Parallel()
	c := play(t, `S: * OK [CAPABILITY IMAP4rev1] hi
		C: p1 EXAMINE INBOX
		S: * 2 EXISTS
		S: * OK [UIDVALIDITY 7] x
		S: p1 OK
		C: p2 STATUS INBOX (UIDNEXT UNSEEN)
		S: * STATUS INBOX (UIDNEXT 8 UNSEEN 2)
		S: p2 OK
		C: p3 UID SEARCH UID 3:* UNSEEN UNDELETED
		S: * SEARCH 9 4
		S: * SEARCH 5 4 (MODSEQ 9)
		S: p3 OK
		C: p4 UID SEARCH ALL
		R: "* SEARCH \r\n* SEARCH\r\np4 OK\r\n"
		C: p5 LSUB "" "*"
		S: * LSUB () "." "INBOX.Entw&APw-rfe"
		S: p5 OK
		C: p6 UID FETCH 4 (UID FLAGS)
		S: p6 OK`)
	s, err := c.Examine(t.Context(), "INBOX", nil)
	check(t, err, nil)
	equal(t, "examined", s, Selected{UIDValidity: 7, Exists: 2})
	st, err := c.Status(t.Context(), "INBOX", StatusUIDNext|StatusUnseen|StatusHighestModSeq)
	check(t, err, nil)
	equal(t, "status", st, Status{Mailbox: "INBOX", Has: StatusUIDNext | StatusUnseen, UIDNext: 8, Unseen: 2})
	f, err := c.UIDSearch(t.Context(), Search{UIDs: UIDSet{{3, Last}}, Unseen: true, Undeleted: true}, ReturnMax)
	check(t, err, nil)
	equal(t, "found", f, Found{Min: 4, Max: 9, Count: 3, All: UIDSet{{4, 5}, {9, 9}}})
	f, err = c.UIDSearch(t.Context(), Search{}, ReturnCount)
	check(t, err, nil)
	equal(t, "found nothing", f, Found{})
	list, err := c.List(t.Context(), ListOptions{Subscribed: true, SpecialUse: true, Status: StatusUnseen})
	check(t, err, nil)
	equal(t, "list", list, []Mailbox{{Name: "INBOX.Entwürfe", Delimiter: "."}})
	check(t, c.UIDFetch(t.Context(), UIDs(4), FetchFlags|FetchPreview|FetchModSeq, func(Message) { t.Error("a message") }), nil)
	_, err = c.Enable(t.Context(), "CONDSTORE")
	check(t, err, ErrUnsupported)
	check(t, c.Notify(t.Context()), ErrUnsupported)
	check(t, c.Idle(), ErrUnsupported)
	check(t, c.Unselect(t.Context()), ErrUnsupported)
	check(t, c.UIDFetch(t.Context(), nil, FetchFlags, nil), errAny)
}

func TestStatusAndList(t *testing.T) {
	t.Parallel()
	c := play(t, greetBox+`C: p1 STATUS "My Box" (MESSAGES HIGHESTMODSEQ X-GUID)
		S: * STATUS other (UNSEEN 1)
		S: * STATUS "My Box" (MESSAGES 231 HIGHESTMODSEQ 7011231777 X-GUID 5af1 APPENDLIMIT NIL DELETED-STORAGE (1 2))
		S: p1 OK
		C: p2 STATUS INBOX (UNSEEN)
		S: p2 OK
		EOF:`)
	got := updates(c)
	s, err := c.Status(t.Context(), "My Box", StatusMessages|StatusHighestModSeq|StatusGUID)
	check(t, err, nil)
	equal(t, "status", s, Status{
		Mailbox: "My Box", Has: StatusMessages | StatusHighestModSeq | StatusGUID, Messages: 231, HighestModSeq: 7011231777, GUID: "5af1",
	})
	equal(t, "updates", *got, []Update{Status{Mailbox: "other", Has: StatusUnseen, Unseen: 1}})
	_, err = c.Status(t.Context(), "INBOX", StatusUnseen)
	check(t, err, ErrUnsupported)

	c = play(t, greetBox+`C: p1 LIST (SUBSCRIBED) "" "*" RETURN (SPECIAL-USE STATUS (UIDNEXT UNSEEN))
		S: * LIST (\Subscribed \NonExistent) "/" Old ("CHILDINFO" ("SUBSCRIBED") "OLDNAME" ("Older"))
		S: * LIST (\Subscribed \HasNoChildren) NIL {5}
		S: inbox
		S: * STATUS INBOX (UIDNEXT 5 UNSEEN 2)
		S: * STATUS nobody (UNSEEN 2)
		S: * LIST (\sent) "\\" "&ZeVnLIqe-&-"
		S: p1 OK
		C: p2 LIST "" "*"
		S: p2 NO no`)
	list, err := c.List(t.Context(), ListOptions{Subscribed: true, SpecialUse: true, Status: StatusUIDNext | StatusUnseen})
	check(t, err, nil)
	equal(t, "list", list, []Mailbox{
		{Name: "Old", Delimiter: "/", Attributes: []string{`\Subscribed`, `\NonExistent`}, OldName: "Older"},
		{Name: "INBOX", Attributes: []string{`\Subscribed`, `\HasNoChildren`}, Status: &Status{Mailbox: "INBOX", Has: StatusUIDNext | StatusUnseen, UIDNext: 5, Unseen: 2}},
		{Name: "日本語&", Delimiter: `\`, Attributes: []string{`\sent`}},
	})
	if !list[2].Is(`\Sent`) || list[2].Is(`\Trash`) {
		t.Error("attributes")
	}
	_, err = c.List(t.Context(), ListOptions{})
	check(t, err, errAny)
}

func TestFetch(t *testing.T) {
	t.Parallel()
	c := play(t, greetBox+`C: p1 UID FETCH 4,7:* (UID FLAGS INTERNALDATE ENVELOPE PREVIEW MODSEQ X-GUID)
		S: * 12 FETCH (UID 7 FLAGS (\Seen) INTERNALDATE "17-Jul-1996 02:44:25 -0700" MODSEQ (5) X-GUID 0f1 ENVELOPE ("Wed, 17 Jul 1996 02:23:25 -0700 (PDT)" {7}
		S: IMAP4 x (("Terry Gray" NIL "gray" "cac.washington.edu")(NIL NIL "b" "x.org") (NIL NIL "group" NIL)) NIL NIL NIL NIL NIL NIL "<B27397@x>") PREVIEW "Hello")
		S: * 3 FETCH (UID 5 FLAGS (\Deleted))
		S: * 14 EXISTS
		S: * 2 FETCH (UID 4 PREVIEW NIL BODY[HEADER.FIELDS (TO "a b")]<0> {3}
		S: abc RFC822.SIZE 4 X (a (b "c") {1}
		S: d) INTERNALDATE " 7-Jul-2026 02:44:25 +0000" PREVIEW (FUZZY "Old") FLAGS ())
		S: p1 OK done
		C: p2 FETCH 1 (UID)
		S: * 1 FETCH (FLAGS (\Seen))
		S: p2 OK done`)
	got := updates(c)
	var all []Message
	each := func(m Message) { all = append(all, m) }
	items := FetchFlags | FetchDate | FetchEnvelope | FetchPreview | FetchModSeq | FetchGUID
	check(t, c.UIDFetch(t.Context(), UIDSet{{4, 4}, {7, Last}}, items, each), nil)
	for i, at := range []string{"1996-07-17T02:44:25-07:00", "2026-07-07T02:44:25Z"} {
		if len(all) != 2 || all[i].InternalDate.Format(time.RFC3339) != at {
			t.Fatalf("messages %+v", all)
		}
		all[i].InternalDate = time.Time{}
	}
	equal(t, "messages", all, []Message{
		{
			Seq: 12, UID: 7, Has: items, Flags: []string{`\Seen`}, Preview: "Hello", ModSeq: 5, GUID: "0f1",
			Envelope: Envelope{
				Date: "Wed, 17 Jul 1996 02:23:25 -0700 (PDT)", Subject: "IMAP4 x", MessageID: "<B27397@x>",
				From: []Address{{"Terry Gray", "gray", "cac.washington.edu"}, {"", "b", "x.org"}, {"", "group", ""}},
			},
		},
		{Seq: 2, UID: 4, Has: FetchPreview | FetchDate | FetchFlags, Preview: "Old"},
	})
	if a := all[0].Envelope.From; a[0].String() != "gray@cac.washington.edu" || a[2].String() != "group" {
		t.Errorf("addresses %v", a)
	}
	if !all[0].Is(`\seen`) || all[1].Is(`\Seen`) {
		t.Error("flags")
	}
	equal(t, "updates", *got, []Update{Message{Seq: 3, UID: 5, Has: FetchFlags, Flags: []string{`\Deleted`}}, Exists(14)})
	all = nil
	check(t, c.Fetch(t.Context(), UIDs(1), 0, each), nil)
	if len(all) != 1 || all[0].Seq != 1 || !all[0].Is(`\Seen`) {
		t.Errorf("fetched %+v", all)
	}
}

func TestSearch(t *testing.T) {
	t.Parallel()
	c := play(t, greetBox+`C: p1 UID SEARCH RETURN (MIN MAX COUNT ALL) UNSEEN
		S: * ESEARCH (TAG "p1") UID MIN 2 MAX 47 ALL 2,10:15,47 COUNT 8 MODSEQ 5 X (1 2)
		S: p1 OK
		C: p2 UID SEARCH RETURN (COUNT) ALL
		S: * ESEARCH (TAG "p2") UID COUNT 0
		S: p2 OK`)
	f, err := c.UIDSearch(t.Context(), Search{Unseen: true}, ReturnMin|ReturnMax|ReturnCount|ReturnAll)
	check(t, err, nil)
	equal(t, "found", f, Found{Min: 2, Max: 47, Count: 8, All: UIDSet{{2, 2}, {10, 15}, {47, 47}}})
	f, err = c.UIDSearch(t.Context(), Search{}, ReturnCount)
	check(t, err, nil)
	equal(t, "found nothing", f, Found{})
}

func TestNotify(t *testing.T) {
	t.Parallel()
	c := play(t, greetBox+`C: p1 NOTIFY SET (selected (MessageNew MessageExpunge)) (mailboxes (INBOX "A b" Entw&APw-rfe) (MessageNew FlagChange)) (personal NONE)
		S: p1 OK
		C: p2 NOTIFY NONE
		S: p2 NO [BADEVENT (MessageNew)] no`)
	check(t, c.Notify(t.Context(), Watch{Group: "selected", Events: []string{MessageNew, MessageExpunge}},
		Watch{Names: []string{"INBOX", "A b", "Entwürfe"}, Events: []string{MessageNew, FlagChange}}, Watch{Group: "personal"}), nil)
	check(t, c.Notify(t.Context()), errAny)
	for _, w := range []Watch{{}, {Group: "x"}, {Names: []string{"a\x00"}}, {Group: "personal", Events: []string{"a)"}}} {
		check(t, c.Notify(t.Context(), w), errAny)
	}
}

// TestUpdates: one stream, in order, whatever command runs.
func TestUpdates(t *testing.T) {
	t.Parallel()
	c := play(t, greetBox+`C: p1 NOOP
		S: * 5 EXISTS
		S: * OK [ALERT] the \ disk
		S: * 3 EXPUNGE
		S: * VANISHED 1:3,9
		S: * 4 FETCH (FLAGS (\Seen) UID 7)
		S: * STATUS &AOQ- (UNSEEN 2)
		S: * LIST (\NonExistent) "/" b
		S: * XUNKNOWN {3}
		S: ) (
		S: * 6 RECENT
		S: p1 OK
		C: p2 NOOP
		S: * BYE [X y] I go`)
	got := updates(c)
	check(t, c.Noop(t.Context()), nil)
	want := []Update{
		Exists(5),
		Notice{Status: "OK", Code: "ALERT", Text: `the \ disk`},
		Expunged(3),
		Vanished{UIDs: UIDSet{{1, 3}, {9, 9}}},
		Message{Seq: 4, UID: 7, Has: FetchFlags, Flags: []string{`\Seen`}},
		Status{Mailbox: "ä", Has: StatusUnseen, Unseen: 2},
		Mailbox{Name: "b", Delimiter: "/", Attributes: []string{`\NonExistent`}},
	}
	equal(t, "updates", *got, want)
	check(t, c.Noop(t.Context()), errAny)
	equal(t, "the end", (*got)[len(want):], []Update{Notice{Status: "BYE", Code: "X", Args: "y", Text: "I go"}})
}

// TestMalformedMailbox: nothing of this is read as something.
func TestMalformedMailbox(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{
		"* 5 FETCH", "* 5 FETCH ()x", "* 5 FETCH (UID)", "* 5 FETCH (UID x)", "* 5 FETCH (UID 99999999999)", "* 5 FETCH (FLAGS x)",
		"* 5 FETCH (FLAGS (\"x\"))", `* 5 FETCH (INTERNALDATE "yesterday")`, "* 5 FETCH (INTERNALDATE NIL)", "* 5 FETCH (ENVELOPE ())",
		"* 5 FETCH (ENVELOPE NIL)", "* 5 FETCH (ENVELOPE (NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL))",
		`* 5 FETCH (ENVELOPE (NIL NIL ((NIL NIL NIL)) NIL NIL NIL NIL NIL NIL NIL))`,
		`* 5 FETCH (ENVELOPE (NIL NIL "x" NIL NIL NIL NIL NIL NIL NIL))`, "* 5 FETCH (MODSEQ (x))", "* 5 FETCH (MODSEQ 9223372036854775808)",
		"* 5 FETCH (BODY[ x)", "* 5 FETCH (X )", "* STATUS INBOX", "* STATUS INBOX (UNSEEN)", "* STATUS INBOX (UNSEEN -1)", "* STATUS () ()",
		"* LIST", "* LIST () x", "* LIST () / INBOX", `* LIST (\x) "/"`, `* LIST () "/" INBOX (x)`, "* VANISHED", "* VANISHED x", "* VANISHED 1:*",
		"* VANISHED (EARLIER)", "* VANISHED (EARLIER 1)", "* VANISHED 1,", "* 5 EXISTS x",
		"* 5 FETCH (X " + strings.Repeat("(", maxDepth+1) + ")",
		`* LIST () "/" "` + strings.Repeat("x", maxName+1) + `"`,
	} {
		c := play(t, greetBox+"C: p1 NOOP\nS: "+answer)
		updates(c)
		if err := c.Noop(t.Context()); err == nil || !errors.Is(err, errSyntax) {
			t.Errorf("%s: %v", answer, err)
		}
	}
	// Somebody who wants no updates is not disturbed by their grammar.
	c := play(t, greetBox+"C: p1 NOOP\nS: * 5 FETCH x (\nS: p1 OK")
	check(t, c.Noop(t.Context()), nil)
}

func TestUIDSet(t *testing.T) {
	t.Parallel()
	s := UIDs(5, 3, 4, 9, 5, Last)
	equal(t, "set", s, UIDSet{{3, 5}, {9, 9}, {Last, Last}})
	equal(t, "text", s.String(), "3:5,9,*")
	equal(t, "length", s.Len(), 5)
	if !s.Contains(4) || s.Contains(6) {
		t.Error("members")
	}
	s = UIDSet{{2, 4}, {1, Last - 1}, {8, 9}}
	equal(t, "newest", s.Newest(2), []uint32{Last - 1, Last - 2})
	equal(t, "huge", s.Len() > 1<<30, true)
	equal(t, "newest of few", UIDSet{{8, 9}, {1, 2}, {2, 3}, {3, 3}}.Newest(9), []uint32{9, 8, 3, 2, 1})
}

func TestNames(t *testing.T) {
	t.Parallel()
	for name, wire := range map[string]string{
		"INBOX": "INBOX", "A & B": "A &- B", "~peter/mail/台北/日本語": "~peter/mail/&U,BTFw-/&ZeVnLIqe-", "Entwürfe": "Entw&APw-rfe", "🐘": "&2D3cGA-", "": "",
	} {
		equal(t, "wire", encodeName(name), wire)
		equal(t, "name", decodeName(wire), name)
	}
	for _, odd := range []string{"&", "&x", "&!-", "&AA-", "&2D0-", "&AAA-", "Entwürfe"} {
		equal(t, "odd", decodeName(odd), odd)
	}
}
