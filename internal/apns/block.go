package apns

import (
	"bytes"
	"slices"
	"strconv"

	"golang.org/x/net/http2/hpack"
)

// blocks encodes the header blocks of one connection (RFC 7541).
//
// What is the same for many messages stands in the dynamic table, the provider token included, and
// costs an octet or two; what changes with each message is a literal that leaves the table alone, its
// name a reference to it. The device token is marked never to be indexed, by anyone on the way.
//
// A block that taught the peer nothing can be made again by copying, as long as the table stays the
// same. So the runs of references are kept per push type, priority and provider token, and the general
// encoder works only when one of these is new.
type blocks struct {
	authority string
	enc       *hpack.Encoder
	out       bytes.Buffer // enc writes here
	// learned: the block under way changed the peer's table, or its size.
	learned bool
	known   []template
	block   []byte
}

// template is the part of a block that can be copied.
type template struct {
	topic, jwt, pushType string
	priority             int
	// head is the pseudo-header fields up to :path, and tail the fields after it.
	head, tail []byte
	// The first octets of literals, up to the value. collapse is nil while the peer does not know it.
	id, expiration, length, collapse []byte
}

// maxTemplates is far above the push types and priorities there are, for two provider tokens.
const maxTemplates = 32

func newBlocks(authority string) *blocks {
	b := &blocks{authority: authority}
	b.enc = hpack.NewEncoder(&b.out)
	return b
}

// setTableSize follows the peer's SETTINGS_HEADER_TABLE_SIZE downwards. A table that grows again after it
// shrank would need two size updates in one block (RFC 7541 section 4.2), at the second of which some
// decoders give up, that of x/net among them.
func (b *blocks) setTableSize(v uint32) {
	if v >= b.enc.MaxDynamicTableSize() {
		return
	}
	b.enc.SetMaxDynamicTableSize(v)
	b.known = b.known[:0]
}

// encode returns the header block of r. It is good until the next call, and must be sent before the
// block of that.
func (b *blocks) encode(r *request) []byte {
	for i := range b.known {
		if t := &b.known[i]; t.fits(r) {
			return b.fill(t, r)
		}
	}
	return b.build(r)
}

func (t *template) fits(r *request) bool {
	return t.pushType == r.m.PushType && t.priority == r.m.Priority && t.jwt == r.jwt && t.topic == r.topic &&
		(t.collapse != nil || r.m.CollapseID == "")
}

func (b *blocks) fill(t *template, r *request) []byte {
	p := append(b.block[:0], t.head...)
	p = appendPath(p, r.token)
	p = append(p, t.tail...)
	p = append(p, t.id...)
	p = appendString(p, r.m.ID)
	p = append(p, t.expiration...)
	p = appendNumber(p, r.expiration())
	p = append(p, t.length...)
	p = appendNumber(p, int64(len(r.m.Payload)))
	if r.m.CollapseID != "" {
		p = append(p, t.collapse...)
		p = appendString(p, r.m.CollapseID)
	}
	b.block = p
	return p
}

// build encodes r with the general encoder.
func (b *blocks) build(r *request) []byte {
	b.out.Reset()
	b.learned = false
	t := template{topic: r.topic, jwt: r.jwt, pushType: r.m.PushType, priority: r.m.Priority}

	b.field(":method", "POST")
	b.field(":scheme", "https")
	b.field(":authority", b.authority)
	t.head = bytes.Clone(b.out.Bytes())
	b.out.Write(appendPath(nil, r.token))

	tail := b.out.Len()
	b.field("apns-topic", r.topic)
	b.field("apns-push-type", r.m.PushType)
	b.field("apns-priority", strconv.Itoa(r.m.Priority))
	b.field("content-type", contentType)
	b.field("user-agent", userAgent)
	if r.jwt != "" {
		b.field("authorization", "bearer "+r.jwt)
	}
	t.tail = bytes.Clone(b.out.Bytes()[tail:])

	t.id = b.variable("apns-id", r.m.ID)
	t.expiration = b.variable("apns-expiration", strconv.FormatInt(r.expiration(), 10))
	t.length = b.variable("content-length", strconv.Itoa(len(r.m.Payload)))
	if r.m.CollapseID != "" {
		t.collapse = b.variable("apns-collapse-id", r.m.CollapseID)
	}
	if b.learned { // every reference into the table has moved
		b.known = b.known[:0]
	} else {
		if len(b.known) == maxTemplates {
			b.known = b.known[:0]
		}
		b.known = append(b.known, t)
	}
	return b.out.Bytes()
}

// field writes a field that will come again.
func (b *blocks) field(name, value string) {
	start := b.out.Len()
	_ = b.enc.WriteField(hpack.HeaderField{Name: name, Value: value}) // a bytes.Buffer does not fail
	b.notice(start)
}

// notice looks whether the field that begins at start is one that changes the table: a literal with
// indexing (01xxxxxx), or a table size update before it (001xxxxx; RFC 7541 section 6).
func (b *blocks) notice(start int) {
	first := b.out.Bytes()[start]
	if first&0xc0 == 0x40 || first&0xe0 == 0x20 {
		b.learned = true
	}
}

// variable writes a field whose value is new each time, and returns what stands before the value. The
// first time it goes into the table for the sake of its name.
func (b *blocks) variable(name, value string) []byte {
	start := b.out.Len()
	// A sensitive field is a literal that is never indexed, with a reference for the name where there
	// is one: 0001 and four bits of index, 0 when the name follows as a literal. The empty value is
	// one octet. Without the 1 the same says "without indexing".
	_ = b.enc.WriteField(hpack.HeaderField{Name: name, Sensitive: true})
	b.notice(start)
	intro := bytes.Clone(b.out.Bytes()[start : b.out.Len()-1])
	intro[0] &^= 0x10
	b.out.Truncate(start)
	if intro[0]&0x0f == 0 {
		_ = b.enc.WriteField(hpack.HeaderField{Name: name, Value: value})
		b.notice(start)
		return intro // of use only where the table is too small to learn the name
	}
	b.out.Write(appendString(slices.Clone(intro), value))
	return intro
}

// appendPath writes :path, entry 4 of the static table, as a literal that is never indexed.
func appendPath(p []byte, token string) []byte {
	p = append(p, 0x10|4)
	p = appendLength(p, len(devicePath)+len(token))
	p = append(p, devicePath...)
	return append(p, token...)
}

// appendString writes a string literal as it is. Huffman coding would save a tenth of the octets of a
// request, at more than the time that encrypting it takes.
func appendString(p []byte, s string) []byte {
	return append(appendLength(p, len(s)), s...)
}

func appendNumber(p []byte, v int64) []byte {
	var digits [20]byte
	d := strconv.AppendInt(digits[:0], v, 10)
	return append(appendLength(p, len(d)), d...)
}

// appendLength writes the length of a string literal without Huffman code: an integer with a prefix
// of 7 bits (RFC 7541 sections 5.1 and 5.2).
func appendLength(p []byte, n int) []byte {
	if n < 127 {
		return append(p, byte(n)) //nolint:gosec // below 127
	}
	p = append(p, 127)
	for n -= 127; n >= 128; n >>= 7 {
		p = append(p, byte(n&127)|128)
	}
	return append(p, byte(n))
}
