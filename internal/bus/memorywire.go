package bus

import (
	"encoding/binary"
	"errors"
	"time"
)

// The messages of a Memory. Each begins with a byte that says what it is:
//
//	news     records: what was just put or deleted
//	digest   the sender's name, how many entries it has, and a hash of them all
//	hello    nothing: whoever is there answers with a digest
//	shards   nothing: the answer is the hash of each shard, 8 bytes each
//	entries  where to begin: shard and key; then the numbers of the shards wanted, ascending. The answer is
//	         a flag, where to go on if it is 1, and records
//
// A record is its key, version, node, a flag and, when that is 0, the value, or, when it is 1, for how many
// milliseconds it has been deleted. Numbers are unsigned varints, texts begin with their length.
const (
	wireNews byte = iota + 1
	wireDigest
	wireHello
	wireShards
	wireEntries
)

var errWire = errors.New("not a message of the cluster memory")

// record is an entry, or what is left of a deleted one, on its way.
type record struct {
	key, node, value string
	version          int64
	dead             bool
	age              time.Duration // since it died
}

// place is where an answer that did not hold everything goes on: behind a key of a shard.
type place struct {
	shard int
	key   string
}

func appendNumber(b []byte, n int64) []byte {
	return binary.AppendUvarint(b, uint64(max(0, n)))
}

func appendText(b []byte, s string) []byte { return append(appendNumber(b, int64(len(s))), s...) }

func appendRecord(b []byte, r record) []byte {
	b = appendText(b, r.key)
	b = appendNumber(b, r.version)
	b = appendText(b, r.node)
	if r.dead {
		return appendNumber(append(b, 1), r.age.Milliseconds())
	}
	return appendText(append(b, 0), r.value)
}

// reader takes a message apart. After an error it returns zero values.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) fail() {
	r.b, r.bad = nil, true
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *reader) number(most int64) int64 {
	u, size := binary.Uvarint(r.b)
	n := int64(u) //nolint:gosec // looked at next
	if size <= 0 || n < 0 || n > most {
		r.fail()
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) text(most int) string {
	n := int(r.number(int64(most)))
	if n > len(r.b) {
		r.fail()
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

// hash reads 8 bytes.
func (r *reader) hash() uint64 {
	if len(r.b) < 8 {
		r.fail()
		return 0
	}
	h := binary.BigEndian.Uint64(r.b)
	r.b = r.b[8:]
	return h
}

func (r *reader) record() record {
	v := record{key: r.text(maxMemoryKey), version: r.number(maxVersion), node: r.text(maxMemoryKey)}
	switch r.byte() {
	case 0:
		v.value = r.text(maxMemoryValue)
	case 1:
		v.dead = true
		v.age = time.Duration(r.number(tombstoneLife.Milliseconds())) * time.Millisecond
	default:
		r.fail()
	}
	return v
}

// records reads records to the end of the message; all of them or an error.
func (r *reader) records() ([]record, error) {
	var all []record
	for len(r.b) > 0 {
		all = append(all, r.record())
	}
	if r.bad {
		return nil, errWire
	}
	return all, nil
}

// digest is what a node says of all it holds.
type digest struct {
	node  string
	count int64
	hash  uint64
}

func (d digest) append(b []byte) []byte {
	b = append(b, wireDigest)
	b = appendText(b, d.node)
	b = appendNumber(b, d.count)
	return binary.BigEndian.AppendUint64(b, d.hash)
}

func parseDigest(data []byte) (digest, error) {
	r := reader{b: data}
	if r.byte() != wireDigest {
		return digest{}, errWire
	}
	d := digest{node: r.text(maxMemoryKey), count: r.number(1 << 62), hash: r.hash()}
	if r.bad || len(r.b) > 0 || d.node == "" {
		return digest{}, errWire
	}
	return d, nil
}

func appendPlace(b []byte, p place) []byte {
	return appendText(appendNumber(b, int64(p.shard)), p.key)
}

func (r *reader) place() place {
	return place{shard: int(r.number(shards - 1)), key: r.text(maxMemoryKey)}
}

// wanted reads the numbers of shards to the end of the message.
func (r *reader) wanted() ([]int, error) {
	var all []int
	for len(r.b) > 0 {
		n := int(r.number(shards - 1))
		if len(all) > 0 && n <= all[len(all)-1] {
			r.fail()
		}
		all = append(all, n)
	}
	if r.bad {
		return nil, errWire
	}
	return all, nil
}

func parseShards(data []byte) (hashes [shards]uint64, err error) {
	if len(data) != 8*shards {
		return hashes, errWire
	}
	for i := range hashes {
		hashes[i] = binary.BigEndian.Uint64(data[8*i:])
	}
	return hashes, nil
}

// answer is the answer to a request for entries.
type answer struct {
	more    bool
	next    place
	records []record
}

func parseAnswer(data []byte) (answer, error) {
	r := reader{b: data}
	var a answer
	switch r.byte() {
	case 0:
	case 1:
		a.more, a.next = true, r.place()
	default:
		r.fail()
	}
	if r.bad {
		return answer{}, errWire
	}
	var err error
	a.records, err = r.records()
	return a, err
}
