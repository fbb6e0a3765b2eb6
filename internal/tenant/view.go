package tenant

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

// SetFiles takes what files say, values of the server scope and context sets, in place of what they said before. When
// there is a problem with any of it, all stays as it was, and the error is cascade.Problems.
func (s *Store) SetFiles(f cascade.Files) error {
	if problems := s.CheckFiles(f); len(problems) > 0 {
		return problems
	}
	s.files.Store(&f)
	s.cache.forgetViews()
	s.tell(UserID{})
	return nil
}

// CheckFiles says what SetFiles would refuse.
func (s *Store) CheckFiles(f cascade.Files) cascade.Problems {
	_, problems := s.properties.Compile(f, cascade.Stored{})
	return problems
}

// View is what the cascade says for a user. One who is not there has that of his context.
func (s *Store) View(ctx context.Context, u UserID) (*cascade.View, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	v, ok, changes := s.cache.views.Get(u)
	if ok {
		return v, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookUpTimeout)
	defer cancel()
	v, err := s.contextView(ctx, u.Context)
	if err != nil {
		return nil, err
	}
	own, err := s.layer(ctx, Subject{cascade.User, u.String()})
	if err != nil {
		return nil, err
	}
	v = s.properties.Over(v, own)
	s.cache.views.Put(u, v, changes)
	return v, nil
}

// ContextView is what the cascade says for a context. One that is not there has no tags and no reseller.
func (s *Store) ContextView(ctx context.Context, id int64) (*cascade.View, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookUpTimeout)
	defer cancel()
	return s.contextView(ctx, id)
}

// contextView comes after check.
func (s *Store) contextView(ctx context.Context, id int64) (*cascade.View, error) {
	v, ok, changes := s.cache.contexts.Get(id)
	if ok {
		return v, nil
	}
	base, err := s.base(ctx)
	if err != nil {
		return nil, err
	}
	c, err := s.Context(ctx, id)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("find context: %w", err)
	}
	layers, err := s.layersAbove(ctx, base, c)
	if err != nil {
		return nil, err
	}
	v = s.properties.Over(base.View(), layers...)
	s.cache.contexts.Put(id, v, changes)
	return v, nil
}

// ServerView is what holds at the server scope.
func (s *Store) ServerView(ctx context.Context) (*cascade.View, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookUpTimeout)
	defer cancel()
	base, err := s.base(ctx)
	if err != nil {
		return nil, err
	}
	return base.View(), nil
}

// base is the scopes that all contexts share. It comes after check.
func (s *Store) base(ctx context.Context) (*cascade.Base, error) {
	b, ok, changes := s.cache.base.Get(struct{}{})
	if ok {
		return b, nil
	}
	stored := cascade.Stored{Values: map[string][]cascade.Setting{}}
	rows, err := s.propertyRows(ctx, sqlBaseProperties)
	if err != nil {
		return nil, fmt.Errorf("read properties: %w", err)
	}
	sets, err := s.storedSets(ctx)
	if err != nil {
		return nil, fmt.Errorf("read context sets: %w", err)
	}
	for _, row := range rows {
		v := s.settings([]propertyRow{row})
		if row.Scope == cascade.Server {
			stored.Server = append(stored.Server, v...)
		} else {
			stored.Values[row.Name] = append(stored.Values[row.Name], v...)
		}
	}
	for _, c := range sets {
		stored.Sets = append(stored.Sets, cascade.Set{Name: c.Name, WithTags: c.WithTags, Priority: c.Priority})
	}
	// The files are good, or SetFiles would not have taken them. A row that a newer version wrote may not be.
	b, _ = s.properties.Compile(*s.files.Load(), stored)
	s.cache.base.Put(struct{}{}, b, changes)
	return b, nil
}

// layersAbove is what lies over the base for a context: the sets, its reseller, and its own values.
func (s *Store) layersAbove(ctx context.Context, base *cascade.Base, c Context) ([]cascade.Layer, error) {
	layers := base.Sets(c.Tags)
	reseller := cascade.Layer{Scope: cascade.Reseller, Without: "the context has no reseller"}
	var err error
	if c.Reseller != "" {
		if reseller, err = s.layer(ctx, Subject{cascade.Reseller, c.Reseller}); err != nil {
			return nil, err
		}
	}
	own, err := s.layer(ctx, contextSubject(c.ID))
	if err != nil {
		return nil, err
	}
	return append(layers, reseller, own), nil
}

// layer reads the values of one subject.
func (s *Store) layer(ctx context.Context, sub Subject) (cascade.Layer, error) {
	rows, err := s.propertyRows(ctx, sqlPropertiesOf, sub.Scope.String(), sub.Name)
	if err != nil {
		return cascade.Layer{}, fmt.Errorf("read properties of %s: %w", sub, err)
	}
	l, _ := s.properties.Layer(sub.Scope, sub.Name, s.settings(rows))
	return l, nil
}

// Explain says which value of a property holds for a user, for a context when u has no id, or at the server scope
// when u is zero; and each place that is passed over. It reads the rows anew.
func (s *Store) Explain(ctx context.Context, name string, u UserID) (cascade.Explanation, error) {
	d, err := s.Property(name)
	if err != nil {
		return cascade.Explanation{}, err
	}
	if err := s.check(ctx); err != nil {
		return cascade.Explanation{}, err
	}
	base, err := s.base(ctx)
	if err != nil {
		return cascade.Explanation{}, err
	}
	layers := append([]cascade.Layer{}, base.Server()...)
	if u.Context != 0 {
		c, err := s.Context(ctx, u.Context)
		if err != nil {
			return cascade.Explanation{}, err
		}
		above, err := s.layersAbove(ctx, base, c)
		if err != nil {
			return cascade.Explanation{}, err
		}
		for i, l := range above {
			if l.Scope == cascade.ContextSet && l.Without != "" {
				has := "none"
				if len(c.Tags) > 0 {
					has = strings.Join(c.Tags, ", ")
				}
				above[i].Without += "; the context has " + has
			}
		}
		layers = append(layers, above...)
	}
	if u.ID != 0 {
		if _, err := s.User(ctx, u); err != nil {
			return cascade.Explanation{}, err
		}
		own, err := s.layer(ctx, Subject{cascade.User, u.String()})
		if err != nil {
			return cascade.Explanation{}, err
		}
		layers = append(layers, own)
	}
	return s.properties.Explain(d.Name, layers)
}
