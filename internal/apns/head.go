package apns

import (
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// head decodes the header block of an answer. It belongs to the reader.
//
// Every block has to be decoded, even one that nobody waits for: the table changes with it.
type head struct {
	dec *hpack.Decoder

	// The block under way; stream is 0 when there is none.
	stream    uint32
	endStream bool
	octets    int // compressed, so far
	frames    int

	// What it says.
	size       uint32 // as RFC 9113 section 6.5.2 counts
	status     int
	regular    bool // a field that is no pseudo-header field came
	malformed  bool // RFC 9113 section 8.1.1
	apnsID     string
	retryAfter string
}

// maxFragments bounds the frames of one header block. The bytes are bounded too, but frames may be empty.
const maxFragments = 32

func (h *head) init() {
	h.dec = hpack.NewDecoder(4096, h.field) // the table size that holds unless we set another
	h.dec.SetMaxStringLength(maxHeaderList)
}

func (h *head) begin(f *http2.HeadersFrame) {
	*h = head{dec: h.dec, stream: f.StreamID, endStream: f.StreamEnded()}
	h.dec.SetEmitEnabled(true)
}

// write takes a fragment; the error is one of the connection.
func (h *head) write(fragment []byte, last bool) error {
	h.frames++
	// A list within the limit is not longer compressed than plain. What exceeds it within reason is
	// only not used; what does not is not even decoded.
	if h.octets += len(fragment); h.octets > 2*maxHeaderList || h.frames > maxFragments {
		return &violation{http2.ErrCodeEnhanceYourCalm, "a header block without end"}
	}
	if _, err := h.dec.Write(fragment); err != nil {
		return &violation{http2.ErrCodeCompression, "a header block does not decode"}
	}
	if last {
		if err := h.dec.Close(); err != nil {
			return &violation{http2.ErrCodeCompression, "a header block is cut short"}
		}
	}
	return nil
}

// field is called by the decoder.
func (h *head) field(f hpack.HeaderField) {
	if h.size += f.Size(); h.size > maxHeaderList {
		h.dec.SetEmitEnabled(false)
		return
	}
	if f.IsPseudo() {
		if f.Name != ":status" || h.regular || h.status != 0 {
			h.malformed = true
			return
		}
		if h.status = parseStatus(f.Value); h.status == 0 {
			h.malformed = true
		}
		return
	}
	h.regular = true
	switch f.Name {
	case "apns-id":
		h.apnsID = f.Value
	case "retry-after":
		h.retryAfter = f.Value
	}
}

// parseStatus takes three digits; it returns 0 for what is no status (RFC 9110 section 15).
func parseStatus(s string) int {
	if len(s) != 3 || s[0] < '1' || s[0] > '9' || s[1] < '0' || s[1] > '9' || s[2] < '0' || s[2] > '9' {
		return 0
	}
	return int(s[0]-'0')*100 + int(s[1]-'0')*10 + int(s[2]-'0')
}
