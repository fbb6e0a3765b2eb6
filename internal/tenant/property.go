package tenant

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

// Subject is for whom a value is set: the server (""), a context set or reseller by its name, a context ("1") or a
// user ("3@1").
type Subject struct {
	Scope cascade.Scope
	Name  string
}

func (s Subject) String() string {
	if s.Name == "" {
		return s.Scope.String()
	}
	return s.Scope.String() + " " + s.Name
}

// PropertyValue is a value that is set.
type PropertyValue struct {
	Subject
	Property string
	Value    string // redacted when it is a secret
	// Origin says where it is written, or who set it and when.
	Origin string
	// SetBy and SetAt are of values set by command or API.
	SetBy string
	SetAt time.Time
}

// setByUpgrade is who set the values that the upgrade to the cascade made, until that is reported; then it is
// reportedUpgrade.
const (
	setByUpgrade    = "upgrade"
	reportedUpgrade = "upgrade, reported"
)

const (
	sqlSetProperty = `INSERT INTO properties (scope, subject, name, value, set_by, set_ms) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (scope, subject, name) DO UPDATE SET value = excluded.value, set_by = excluded.set_by, set_ms = excluded.set_ms`
	sqlUnsetProperty  = `DELETE FROM properties WHERE scope = ? AND subject = ? AND name = ?`
	sqlUnsetAll       = `DELETE FROM properties WHERE scope = ? AND subject = ?`
	sqlPropertiesOf   = `SELECT scope, subject, name, value, set_by, set_ms FROM properties WHERE scope = ? AND subject = ? ORDER BY name`
	sqlProperties     = `SELECT scope, subject, name, value, set_by, set_ms FROM properties ORDER BY scope, subject, name`
	sqlBaseProperties = `SELECT scope, subject, name, value, set_by, set_ms FROM properties WHERE scope IN ('server', 'contextset') ORDER BY scope, subject, name`
	sqlReportUpgrade  = `UPDATE properties SET set_by = ? WHERE set_by = ?`
)

// ReportUpgrade returns how many contexts the upgrade to the cascade has let use the app as before, the first time
// that it is asked after it; then 0.
func (s *Store) ReportUpgrade(ctx context.Context) (contexts int64, err error) {
	err = s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		contexts, err = tx.Exec(ctx, sqlReportUpgrade, reportedUpgrade, setByUpgrade)
		return err
	})
	return contexts, err
}

// propertyRow is a row as it is kept, a secret sealed.
type propertyRow struct {
	Subject
	property, value, setBy string
	setMS                  int64
}

func scanProperty(rows *sql.Rows, p *propertyRow) error {
	var scope string
	if err := rows.Scan(&scope, &p.Name, &p.property, &p.value, &p.setBy, &p.setMS); err != nil {
		return err
	}
	return p.Scope.UnmarshalText([]byte(scope))
}

func (p propertyRow) origin() string {
	who := "set by " + p.setBy
	if p.setBy == setByUpgrade || p.setBy == reportedUpgrade {
		who = "kept on by the upgrade"
	}
	return who + " " + db.Time(p.setMS).UTC().Format(time.DateTime)
}

func (p propertyRow) owner() string { return "property/" + p.String() + "/" + p.property }

// settings opens rows. A secret that no key opens is as if it were not set: the others hold all the same.
func (s *Store) settings(rows []propertyRow) []cascade.Setting {
	all := make([]cascade.Setting, 0, len(rows))
	for _, row := range rows {
		if d, err := s.properties.Find(row.property); err == nil && d.Secret {
			text, err := s.keys.Open(row.owner(), row.value)
			if err != nil {
				continue
			}
			row.value = string(text)
		}
		all = append(all, cascade.Setting{Name: row.property, Value: row.value, Origin: row.origin()})
	}
	return all
}

func (s *Store) propertyRows(ctx context.Context, query string, args ...any) ([]propertyRow, error) {
	rows, err := s.db.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return scanAll(rows, scanProperty)
}

// Property finds the definition of a property by its name or an alias. Errors are *InvalidError.
func (s *Store) Property(name string) (cascade.Definition, error) {
	d, err := s.properties.Find(name)
	if err != nil {
		return d, &InvalidError{"property", fmt.Sprintf("%q: %v", name, err)}
	}
	return d, nil
}

// SetProperty sets a value for a subject; by says who does.
func (s *Store) SetProperty(ctx context.Context, sub Subject, name, value, by string) error {
	d, err := s.Property(name)
	if err != nil {
		return err
	}
	if err := d.CheckScope(sub.Scope); err != nil {
		return &InvalidError{"scope", d.Name + " " + err.Error()}
	}
	if value, err = d.Parse(value); err != nil {
		return &InvalidError{"value", d.Name + ": " + err.Error()}
	}
	row := propertyRow{Subject: sub, property: d.Name, value: value}
	if d.Secret {
		row.value = s.keys.Seal(row.owner(), []byte(value))
	}
	return s.changeOf(ctx, sub, func(ctx context.Context, tx *db.Tx) error {
		if d.Name == cascade.Provider.Name() && value != "" {
			if err := mustHave(ctx, tx, sqlHasProvider, value, "value", `there is no provider %q: "posthorn provider list" shows those that there are`); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, sqlSetProperty, sub.Scope.String(), sub.Name, row.property, row.value, by, db.Millis(s.now()))
		return err
	})
}

// UnsetProperty takes away a value that was set by command or API.
func (s *Store) UnsetProperty(ctx context.Context, sub Subject, name string) error {
	d, err := s.Property(name)
	if err != nil {
		return err
	}
	return s.changeOf(ctx, sub, func(ctx context.Context, tx *db.Tx) error {
		n, err := tx.Exec(ctx, sqlUnsetProperty, sub.Scope.String(), sub.Name, d.Name)
		if err == nil && n == 0 {
			err = fmt.Errorf("a value of %s that was set by command or API for %s was %w", d.Name, sub, ErrNotFound)
			if l, _ := s.fileLayer(sub); slices.ContainsFunc(l, func(v cascade.Setting) bool { return s.same(v.Name, d) }) {
				err = &InvalidError{"property", d.Name + " is set in a file for " + sub.String() + ": remove it there, and run \"posthorn reload\""}
			}
		}
		return err
	})
}

func (s *Store) same(name string, d cascade.Definition) bool {
	found, err := s.properties.Find(name)
	return err == nil && found.Name == d.Name
}

// changeOf changes values of a subject, which must be there.
func (s *Store) changeOf(ctx context.Context, sub Subject, fn func(context.Context, *db.Tx) error) error {
	return s.change(ctx, func(ctx context.Context, tx *db.Tx) (User, error) {
		u, err := s.find(ctx, tx, sub)
		if err != nil {
			return u, err
		}
		return u, fn(ctx, tx)
	})
}

// find checks that a subject is there, and returns whose views depend on it, as change wants it.
func (s *Store) find(ctx context.Context, tx *db.Tx, sub Subject) (User, error) {
	missing := func(err error) error {
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("%s %w", sub, ErrNotFound)
		}
		return err
	}
	switch sub.Scope {
	case cascade.Server:
		if sub.Name != "" {
			return User{}, &InvalidError{"subject", "must be empty for the server"}
		}
		return User{}, nil
	case cascade.ContextSet:
		if _, ok := s.inFiles(sub.Name); ok {
			return User{}, nil
		}
		var c ContextSet
		return User{}, missing(tx.QueryRow(ctx, sqlContextSet, sub.Name).Scan(&c.Name, &c.WithTags, &c.Priority))
	case cascade.Reseller:
		var r Reseller
		return User{}, missing(tx.QueryRow(ctx, sqlReseller, sub.Name).Scan(&r.Name, &r.Title, &r.Contact))
	case cascade.Context:
		id, err := parseID(sub.Name)
		if err != nil {
			return User{}, &InvalidError{"subject", "must be a context's number, as 1"}
		}
		_, err = contextFrom(id, tx.QueryRow(ctx, sqlContext, id))
		return User{ID: UserID{Context: id}}, err
	case cascade.User:
		id, err := ParseUserID(sub.Name)
		if err != nil {
			return User{}, err
		}
		u := User{}
		err = missing(tx.QueryRow(ctx, sqlUser, id.Context, id.ID).Scan(&u.ID.Context, &u.ID.ID, &u.Login, &u.MailHost))
		u.ID = id
		return u, err
	case cascade.Default:
	}
	return User{}, &InvalidError{"scope", "must be server, contextset, reseller, context or user"}
}

// Properties lists the values that are set for a subject, by files, commands or the API; for nil, all.
func (s *Store) Properties(ctx context.Context, sub *Subject) ([]PropertyValue, error) {
	var rows []propertyRow
	var err error
	if sub == nil {
		rows, err = s.propertyRows(ctx, sqlProperties)
	} else {
		rows, err = s.propertyRows(ctx, sqlPropertiesOf, sub.Scope.String(), sub.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("list properties: %w", err)
	}
	all := []PropertyValue{}
	add := func(of Subject, v cascade.Setting, by string, at time.Time) {
		p := PropertyValue{of, v.Name, v.Value, v.Origin, by, at}
		if d, err := s.properties.Find(v.Name); err == nil {
			if p.Property = d.Name; d.Secret {
				p.Value = cascade.Redacted
			}
		}
		all = append(all, p)
	}
	files := s.files.Load()
	if server := (Subject{Scope: cascade.Server}); sub == nil || *sub == server {
		for _, v := range files.Server {
			add(server, v, "", time.Time{})
		}
	}
	for _, set := range files.Sets {
		if of := (Subject{cascade.ContextSet, set.Name}); sub == nil || *sub == of {
			for _, v := range set.Values {
				add(of, v, "", time.Time{})
			}
		}
	}
	for _, row := range rows {
		add(row.Subject, cascade.Setting{Name: row.property, Value: row.value, Origin: row.origin()}, row.setBy, db.Time(row.setMS))
	}
	slices.SortStableFunc(all, func(a, b PropertyValue) int { return int(a.Scope) - int(b.Scope) })
	return all, nil
}

// fileLayer is what files set for a subject.
func (s *Store) fileLayer(sub Subject) ([]cascade.Setting, bool) {
	if sub == (Subject{Scope: cascade.Server}) {
		return s.files.Load().Server, true
	}
	set, ok := s.inFiles(sub.Name)
	return set.Values, ok && sub.Scope == cascade.ContextSet
}

// contextSubject names a context.
func contextSubject(id int64) Subject { return Subject{cascade.Context, strconv.FormatInt(id, 10)} }

// resealProperties seals secret values anew with the first key of the ring, see Reseal.
func (s *Store) resealProperties(ctx context.Context) (n int, failed error) {
	secret := func(name string) bool {
		d, err := s.properties.Find(name)
		return err == nil && d.Secret
	}
	if !slices.ContainsFunc(s.properties.Definitions(), func(d cascade.Definition) bool { return d.Secret }) {
		return 0, nil
	}
	all, err := s.propertyRows(ctx, sqlProperties)
	if err != nil {
		return 0, err
	}
	for _, row := range all {
		if !secret(row.property) {
			continue
		}
		fresh, old, err := s.keys.Reseal(row.owner(), row.value)
		if err == nil && old {
			err = s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
				rows, err := tx.Query(ctx, sqlPropertiesOf, row.Scope.String(), row.Name)
				if err != nil {
					return err
				}
				now, err := scanAll(rows, scanProperty)
				if err != nil || !slices.Contains(now, row) {
					return err // changed meanwhile, and so sealed anew
				}
				_, err = tx.Exec(ctx, sqlSetProperty, row.Scope.String(), row.Name, row.property, fresh, row.setBy, row.setMS)
				return err
			})
		}
		switch {
		case err != nil:
			failed = errors.Join(failed, fmt.Errorf("seal %s of %s anew: %w", row.property, row.Subject, err))
		case old:
			n++
		}
	}
	return n, failed
}
