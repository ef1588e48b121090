package store

import (
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// column is one value of a record: the column of a table, or what else is read with a row of it.
type column struct {
	name string // of the table's column; empty for what is only read
	expr string // what is read, when that is not the column itself
	at   any    // where the value stands in the record: what database/sql scans into, and takes as argument
}

// columns are a record's. Each is listed once, with its place in one record, and is read and
// written by that.
type columns []column

// selectFrom reads all of them; a condition may follow.
func (c columns) selectFrom(table string) string {
	var list []string
	for _, one := range c {
		if one.expr == "" {
			one.expr = one.name
		}
		list = append(list, one.expr)
	}
	return "SELECT " + strings.Join(list, ", ") + " FROM " + table
}

// targets are where a row is scanned to.
func (c columns) targets() []any {
	all := make([]any, len(c))
	for i, one := range c {
		all[i] = one.at
	}
	return all
}

// insertInto writes a row with all columns of the table.
func (c columns) insertInto(table string) (statement string, args []any) {
	var names []string
	for _, one := range c {
		if one.name != "" {
			names, args = append(names, one.name), append(args, one.at)
		}
	}
	marks := strings.TrimSuffix(strings.Repeat("?, ", len(names)), ", ")
	return fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s)", table, strings.Join(names, ", "), marks), args
}

// What follows are values that SQLite does not know. Each holds a pointer, and stands for what it
// points to both ways.

// millis is a time as Unix milliseconds; 0 is "never".
type millis struct{ *time.Time }

func (m millis) Value() (driver.Value, error) { return toMillis(*m.Time), nil }

func (m millis) Scan(from any) error {
	ms, ok := from.(int64)
	if !ok {
		return fmt.Errorf("a time is no number: %v", from)
	}
	*m.Time = fromMillis(ms)
	return nil
}

// address is an address as text; an invalid one is "".
type address struct{ *netip.Addr }

func (a address) Value() (driver.Value, error) {
	if !a.IsValid() {
		return "", nil
	}
	return a.String(), nil
}

func (a address) Scan(from any) (err error) {
	*a.Addr = netip.Addr{}
	if from == "" {
		return nil
	}
	*a.Addr, err = netip.ParseAddr(fmt.Sprint(from))
	return err
}

// asJSON is anything as JSON; what it points to is left alone by NULL.
type asJSON struct{ to any }

func (j asJSON) Value() (driver.Value, error) {
	text, err := json.Marshal(j.to)
	return string(text), err
}

func (j asJSON) Scan(from any) error {
	if from == nil || from == "null" {
		return nil
	}
	text, ok := from.(string)
	if !ok {
		return fmt.Errorf("JSON is no text: %v", from)
	}
	return json.Unmarshal([]byte(text), j.to)
}

// orNull is a text, and NULL when it is empty.
type orNull struct{ *string }

func (o orNull) Value() (driver.Value, error) {
	if *o.string == "" {
		return nil, nil
	}
	return *o.string, nil
}

func (o orNull) Scan(from any) error {
	*o.string, _ = from.(string)
	return nil
}
