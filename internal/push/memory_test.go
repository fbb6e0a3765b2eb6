package push

import (
	"fmt"
	"runtime"
	"testing"
	"unsafe"
)

// TestEntryMemory: a dirty slot costs the timetable little, for there may be a hundred thousand.
func TestEntryMemory(t *testing.T) {
	const slots, most = 100_000, 80 // bytes each, with the table
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what tests before left may take two
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	if size := unsafe.Sizeof(entry{}); size > 64 { // a size class of Go's
		t.Errorf("an entry has %d bytes", size)
	}
	s := newScheduler(1000, anyCredential)
	before := heap()
	for i := range slots {
		s.add([]Due{{id: slotID{fmt.Sprintf("%024x", i), collapseKeyMail}, lane: "apns/0/com.example.mail", context: int64(i % 10), client: "app", device: uint64(i)}})
	}
	after := heap()
	if each := (after - before) / slots; each > most {
		t.Errorf("%d bytes for a slot, at most %d", each, most)
	} else {
		t.Logf("%d bytes for a slot", each)
	}
	runtime.KeepAlive(s)
}
