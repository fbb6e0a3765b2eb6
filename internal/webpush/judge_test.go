package webpush

import (
	"bufio"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// captured is an HTTP transport that keeps the one request it was given, and accepts it.
type captured struct {
	header http.Header
	body   []byte
}

func (c *captured) RoundTrip(r *http.Request) (*http.Response, error) {
	var err error
	c.header = r.Header.Clone()
	c.body, err = io.ReadAll(r.Body)
	return &http.Response{StatusCode: http.StatusCreated, Body: http.NoBody, Request: r}, err
}

// judge is the independent implementation in testdata/judge.cjs.
type judge struct {
	mu    sync.Mutex // guards stdin
	stdin io.WriteCloser
}

// send hands over one request and what it has to decrypt to.
func (j *judge) send(endpoint string, c captured, plain []byte) error {
	sum := sha256.Sum256(plain)
	head, err := json.Marshal(map[string]any{
		"endpoint": endpoint, "sha256": hex.EncodeToString(sum[:]), "headers": map[string]string{
			"encoding": c.header.Get("Content-Encoding"), "ttl": c.header.Get("TTL"), "authorization": c.header.Get("Authorization"),
		},
	})
	if err != nil {
		return err
	}
	var out []byte
	for _, block := range [][]byte{head, c.body} {
		out = binary.BigEndian.AppendUint32(out, uint32(len(block))) //nolint:gosec // a few thousand
		out = append(out, block...)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	_, err = j.stdin.Write(out)
	return err
}

// TestIndependentDecryption has an implementation that shares no line with ours take our key, make the
// subscriptions, check the headers, and decrypt ten thousand messages: each length that there is, and more.
func TestIndependentDecryption(t *testing.T) {
	const messages, subscriptions = 10_000, "16"
	key := must(GenerateKey())(t)
	sender := func(rt http.RoundTripper) *Sender {
		s, err := New(Config{Key: key, Subject: "mailto:push@example.com", HTTP: &http.Client{Transport: rt}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	cmd := testpeer.Node(t, "testdata/judge.cjs", sender(nil).PublicKey(), subscriptions)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	var subs []Subscription
	for len(subs) < 16 && lines.Scan() {
		sub, err := ParseSubscription(lines.Bytes())
		if err != nil {
			t.Fatalf("%v: %s", err, lines.Text())
		}
		subs = append(subs, sub)
	}

	j := &judge{stdin: stdin}
	numbers := make(chan int)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		var c captured
		s := sender(&c)
		workers.Go(func() {
			for n := range numbers {
				size := n
				if n > MaxBody {
					size = mathrand.IntN(MaxBody + 1) //nolint:gosec // any will do
				}
				plain := make([]byte, size)
				_, _ = rand.Read(plain)
				sub := subs[n%len(subs)]
				if o := s.Send(t.Context(), sub, Message{Body: plain, Urgency: "high"}); o.Kind != outcome.Delivered {
					t.Errorf("%d octets: %+v", size, o)
				}
				if err := j.send(sub.Endpoint, c, plain); err != nil {
					t.Errorf("%d octets: %v", size, err)
				}
			}
		})
	}
	for n := range messages {
		numbers <- n
	}
	close(numbers)
	workers.Wait()
	if err := stdin.Close(); err != nil {
		t.Error(err)
	}
	var verdict struct {
		Good, Count int
		Bad         []string
	}
	if !lines.Scan() {
		t.Errorf("no verdict: %v", lines.Err())
	} else if err := json.Unmarshal(lines.Bytes(), &verdict); err != nil {
		t.Errorf("%v: %s", err, lines.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if verdict.Good != messages {
		t.Errorf("%d of %d decrypted; %d not, such as\n%s", verdict.Good, messages, verdict.Count, strings.Join(verdict.Bad, "\n"))
	}
}
