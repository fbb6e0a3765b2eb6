package dispatch

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

const (
	sqlState    = `SELECT version, folders FROM states WHERE context_id = ? AND user_id = ?`
	sqlAddState = `INSERT INTO states (context_id, user_id, version, folders) SELECT context_id, id, 1, ? FROM users
		WHERE context_id = ? AND id = ? ON CONFLICT DO NOTHING`
	// sqlNextState takes the place of the version it was made from, or of none.
	sqlNextState = `UPDATE states SET version = version + 1, folders = ? WHERE context_id = ? AND user_id = ? AND version = ?`
)

const (
	// maxFolders bounds what is known of a user, maxValidities how many UIDVALIDITYs of one folder: a folder
	// that is made anew has a new one, and events of the old one may come late. What was touched longest ago
	// goes first.
	maxFolders, maxValidities = 64, 4
	// maxStates bounds the users in memory. Beyond it, all are forgotten, and read again when needed.
	maxStates = 16384
)

// state is what is known of a user's mailbox: version counts the changes of it, 0 is before the first. It
// is never changed, only replaced.
type state struct {
	version int64
	folders []folder
}

// folder is what is known of a folder under one UIDVALIDITY.
type folder struct {
	Name     string `json:"f"`
	Validity uint32 `json:"v"`
	window
	// Told has bit i set when devices were told of uid High-i, and it was not read or removed since.
	Told uint64 `json:"w,omitempty"`
	// Count is the unseen messages and one more; 0 is unknown.
	Count int `json:"n,omitempty"`
	// ModSeq is the HIGHESTMODSEQ that a source last saw, or 0.
	ModSeq uint64 `json:"m,omitempty"`
	// Touched is when the last event came, in milliseconds since 1970.
	Touched int64 `json:"t"`
}

// with is the state after an event. Not fresh means that it tells nothing: the message was reported before,
// or, of an event that is no new mail, the folder has been replaced since. older says that a newer message was
// reported: one with a higher uid, or one of the folder that took this one's place (its UIDVALIDITY is higher,
// RFC 9051 section 2.3.1.1). Changes of messages have no order but that in which we hear of them.
func (s state) with(ev event.Event, ms int64) (next state, fresh, older bool) {
	f := folder{Name: ev.Folder, Validity: ev.UIDValidity}
	at := -1
	for i, have := range s.folders {
		switch {
		case have.Name != ev.Folder:
		case have.Validity == ev.UIDValidity:
			f, at = have, i
		case have.Validity > ev.UIDValidity:
			older = older || ev.UIDValidity != 0 // who knows no UIDVALIDITY cannot be told to be late
		}
	}
	switch {
	case ev.Kind == event.NewMail:
		if !f.add(ev.UID) {
			return s, false, false
		}
		f.tell(ev.UID, true)
		older = older || ev.UID < f.High
	case older:
		return s, false, false
	case ev.Kind != event.Counted:
		for _, uid := range ev.UIDs {
			f.add(uid) // if its arrival is told later still, it is no news
			f.tell(uid, false)
		}
	}
	if ev.Unseen >= 0 && !older {
		f.Count = ev.Unseen + 1
	}
	return s.put(f, at, ms), true, older
}

// add marks uid as in window.add.
func (f *folder) add(uid uint32) bool {
	high := f.High
	fresh := f.window.add(uid)
	f.Told <<= f.High - high // a shift by 64 or more leaves 0
	return fresh
}

// tell notes whether devices may show a message.
func (f *folder) tell(uid uint32, told bool) {
	if uid > f.High || f.High-uid >= windowSize {
		return
	}
	if bit := uint64(1) << (f.High - uid); told {
		f.Told |= bit
	} else {
		f.Told &^= bit
	}
}

// put is the next state, with f in the place at, or added when that is negative.
func (s state) put(f folder, at int, ms int64) state {
	f.Touched = ms
	folders := make([]folder, 0, len(s.folders)+1)
	folders = append(folders, s.folders...)
	if at >= 0 {
		folders[at] = f
	} else {
		folders = forgetOldest(append(folders, f), maxValidities, func(o folder) bool { return o.Name == f.Name })
		folders = forgetOldest(folders, maxFolders, func(folder) bool { return true })
	}
	return state{s.version + 1, folders}
}

// count is the number of unseen messages in the INBOX; negative is unknown.
func (s state) count() int {
	var last folder
	for _, f := range s.folders {
		if f.Name == event.Inbox && cmp.Or(cmp.Compare(f.Touched, last.Touched), cmp.Compare(f.Validity, last.Validity)) >= 0 {
			last = f
		}
	}
	return last.Count - 1
}

// same reports whether nothing is known in s that was not known before.
func (s state) same(before state) bool {
	return slices.EqualFunc(s.folders, before.folders, func(a, b folder) bool {
		a.Touched = b.Touched
		return a == b
	})
}

// forgetOldest keeps at most so many of a kind.
func forgetOldest(folders []folder, most int, kind func(folder) bool) []folder {
	n := 0
	oldest := -1
	for i, f := range folders {
		if !kind(f) {
			continue
		}
		n++
		if oldest < 0 || cmp.Or(cmp.Compare(f.Touched, folders[oldest].Touched), cmp.Compare(f.Validity, folders[oldest].Validity)) < 0 {
			oldest = i
		}
	}
	if n <= most {
		return folders
	}
	return slices.Delete(folders, oldest, oldest+1)
}

// states keeps the states of the users that events came for lately. It may be behind the table, where another
// node writes too: whoever builds on it finds out, because a state is only put in the place of the version
// it was made from.
type states struct {
	mu     sync.Mutex // guards byUser; held for map operations only
	byUser map[tenant.UserID]state
}

func (s *states) get(u tenant.UserID) (state, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ok := s.byUser[u]
	return st, ok
}

// put keeps a committed state, unless a newer one is there.
func (s *states) put(u tenant.UserID, st state) {
	s.mu.Lock()
	defer s.mu.Unlock()
	have, ok := s.byUser[u]
	if ok && have.version >= st.version {
		return
	}
	if !ok && len(s.byUser) >= maxStates {
		clear(s.byUser)
	}
	s.byUser[u] = st
}

// drop forgets a user.
func (s *states) drop(u tenant.UserID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byUser, u)
}

// read finds the state of a user in the table.
func read(ctx context.Context, tx *db.Tx, u tenant.UserID) (st state, err error) {
	return st, readFrom(tx.QueryRow(ctx, sqlState, u.Context, u.ID), u, &st)
}

// readFrom reads a row of sqlState, or none: then st stays as it is.
func readFrom(row *sql.Row, u tenant.UserID, st *state) error {
	var folders string
	err := row.Scan(&st.version, &folders)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read state of user %s: %w", u, err)
	}
	if err := json.Unmarshal([]byte(folders), &st.folders); err != nil {
		return fmt.Errorf("read state of user %s: %w", u, err)
	}
	return nil
}

// replace puts a state in the place of the one it was made from. It reports false when that one is there no more.
func replace(ctx context.Context, tx *db.Tx, u tenant.UserID, next state) (bool, error) {
	folders, err := json.Marshal(next.folders)
	if err != nil {
		return false, fmt.Errorf("encode state: %w", err)
	}
	var n int64
	if next.version == 1 {
		n, err = tx.Exec(ctx, sqlAddState, string(folders), u.Context, u.ID)
	} else {
		n, err = tx.Exec(ctx, sqlNextState, string(folders), u.Context, u.ID, next.version-1)
	}
	if err != nil {
		return false, fmt.Errorf("write state of user %s: %w", u, err)
	}
	return n == 1, nil
}

// windowSize is how far below the highest uid a late one is still told from a repeated one.
const windowSize = 64

// window remembers which of the last uids of a folder were seen: bit i of Seen is uid High-i.
type window struct {
	High uint32 `json:"u"`
	Seen uint64 `json:"s"`
}

// add marks uid and reports whether it was new. What is below the window counts as seen.
func (w *window) add(uid uint32) bool {
	if uid > w.High {
		w.Seen = w.Seen<<(uid-w.High) | 1 // a shift by 64 or more leaves 0
		w.High = uid
		return true
	}
	back := w.High - uid
	if back >= windowSize || w.Seen&(1<<back) != 0 {
		return false
	}
	w.Seen |= 1 << back
	return true
}
