package apns

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"
)

// blockPair is our encoder and the general decoder, with what the peer allows between them.
type blockPair struct {
	tb  testing.TB
	enc *blocks
	dec *hpack.Decoder
	got []hpack.HeaderField
}

func newBlockPair(tb testing.TB) *blockPair {
	p := &blockPair{tb: tb, enc: newBlocks("api.push.apple.com")}
	p.dec = hpack.NewDecoder(4096, func(f hpack.HeaderField) { p.got = append(p.got, f) })
	return p
}

func (p *blockPair) setTableSize(n uint32) {
	p.enc.setTableSize(n)
	p.dec.SetAllowedMaxDynamicTableSize(min(n, 4096))
}

// check encodes r, decodes it, holds it to what net/http would be given, and returns its size.
func (p *blockPair) check(r *request) int {
	p.tb.Helper()
	p.got = nil
	block := p.enc.encode(r)
	if _, err := p.dec.Write(block); err != nil {
		p.tb.Fatalf("decode: %v", err)
	}
	if err := p.dec.Close(); err != nil {
		p.tb.Fatalf("decode: %v", err)
	}
	want := []string{":method POST", ":scheme https", ":authority api.push.apple.com", ":path /3/device/" + r.token + " never indexed"}
	regular := []string{"content-length " + strconv.Itoa(len(r.m.Payload))}
	for _, f := range r.fields() {
		regular = append(regular, f.name+" "+f.value)
	}
	var got []string
	for _, f := range p.got {
		s := f.Name + " " + f.Value
		if f.Sensitive {
			s += " never indexed"
		}
		got = append(got, s)
	}
	if len(got) < 4 || !slices.Equal(got[:4], want) {
		p.tb.Fatalf("pseudo-header fields\n got %q\nwant %q", got, want)
	}
	got = got[4:]
	slices.Sort(got)
	slices.Sort(regular)
	if !slices.Equal(got, regular) {
		p.tb.Fatalf("fields\n got %q\nwant %q", got, regular)
	}
	return len(block)
}

func blockRequest(n int) *request {
	tokens, messages := benchMessages()
	return &request{topic: testTopic, token: tokens[n], jwt: strings.Repeat("j", 180), m: messages[n]}
}

// TestBlockSize: once the peer has learned what stays the same, a block is little more than what is new.
func TestBlockSize(t *testing.T) {
	p := newBlockPair(t)
	var sizes []int
	for n := range 5 {
		sizes = append(sizes, p.check(blockRequest(n)))
	}
	r := blockRequest(9)
	fresh := len(devicePath+r.token) + len(r.m.ID) + len("1795348800") + len("170") + len(r.m.CollapseID)
	if last := sizes[4]; last > fresh+30 {
		t.Errorf("%v octets, of which %d are new", sizes, fresh)
	}
	if n := testing.AllocsPerRun(100, func() { p.enc.encode(r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestBlocks goes through everything that can change between requests.
func TestBlocks(t *testing.T) {
	p := newBlockPair(t)
	for n := range 300 {
		r := blockRequest(n)
		r.jwt = strings.Repeat(fmt.Sprint(n/20%10), 170+n%20) // changes every 20, and lingers: two in turn
		if n%7 == 0 {
			r.jwt = strings.Repeat(fmt.Sprint((n/20+9)%10), 180)
		}
		if n%5 == 0 {
			r.m.CollapseID = ""
		}
		if n%3 == 0 {
			r.m.PushType, r.m.Priority = Background, 5
		}
		if n%11 == 0 {
			r.m.Expiration = time.Time{}
			r.token = strings.Repeat("ab", 256)
		}
		if n%60 == 59 {
			p.setTableSize([]uint32{0, 4096, 100, 300, 1 << 20}[n/60])
		}
		p.check(r)
	}
}

// FuzzBlocks holds our encoder to the general decoder under any order of requests and table sizes.
func FuzzBlocks(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 250, 4, 5, 0, 0, 250, 0, 0, 1, 1, 250, 255, 7, 7})
	f.Fuzz(func(t *testing.T, ops []byte) {
		p := newBlockPair(t)
		changed := false
		for i := 0; i < len(ops) && i < 2000; i++ {
			op := ops[i]
			if op >= 250 && i+1 < len(ops) {
				i++
				// Once between two blocks: of two updates in a row, the general decoder refuses the second
				// although RFC 7541 section 4.2 demands both.
				if !changed {
					p.setTableSize(uint32(ops[i]) * 20)
					changed = true
				}
				continue
			}
			changed = false
			r := blockRequest(int(op))
			r.jwt = strings.Repeat("j", int(op>>4)*13)
			if op&1 == 0 {
				r.m.CollapseID = ""
			}
			if op&2 == 0 {
				r.m.PushType, r.m.Priority = Background, 5
			}
			if op&4 == 0 {
				r.m.Priority = 1 + int(op&8)
			}
			r.token = strings.Repeat("ab", 32+int(op))
			p.check(r)
		}
	})
}
