package store

import (
	"strings"

	"banger/api"
)

// entity is what records are about, as errors call it.
type entity struct {
	name string
	list api.Remedy // lists them
}

// Kind is a sort of artifact: where its records are, and what is peculiar to them. Another kind is
// one more variable here, with its tables in the schema.
type Kind struct {
	// entity's name is also that of the tables, such as images and image_names, and of columns that
	// refer to an artifact, such as image_id.
	entity

	own   string                  // the column that no other kind has
	ownAt func(*Artifact) *string // where it stands in a record

	users []string // statements that give the names of what uses the artifact with the id ?1
	hint  string   // for one that is in use
}

// All kinds.
var (
	KindImage = &Kind{
		entity: entity{"image", api.OpImages.Remedy(api.None{}, "see what there is")},
		own:    "kernel_id",
		ownAt:  func(a *Artifact) *string { return &a.KernelID },
		users:  []string{`SELECT name FROM vms WHERE image_id = ?1 ORDER BY name`},
		hint:   "remove those machines first",
	}
	KindKernel = &Kind{
		entity: entity{"kernel", api.OpKernels.Remedy(api.None{}, "see what there is")},
		own:    "release",
		ownAt:  func(a *Artifact) *string { return &a.Release },
		users: []string{
			`SELECT name FROM vms WHERE kernel_id = ?1 ORDER BY name`,
			`SELECT 'image ' ||
				COALESCE((SELECT name FROM image_names WHERE image_id = images.id ORDER BY rowid LIMIT 1), id)
				FROM images WHERE kernel_id = ?1 ORDER BY 1`,
		},
		hint: "remove those first",
	}
)

// String is what a user calls an artifact of the kind.
func (k *Kind) String() string { return k.name }

// sql puts the kind into a statement: $kind is its name, $own its own column.
func (k *Kind) sql(statement string) string {
	return strings.NewReplacer("$kind", k.name, "$own", k.own).Replace(statement)
}

// columns are those of a record, which they point into.
func (k *Kind) columns(a *Artifact) columns {
	return columns{
		{name: "id", at: &a.ID},
		{name: "source", at: &a.Source},
		{name: "size_bytes", at: &a.SizeBytes},
		{name: "stamp", at: &a.Stamp},
		{name: "created_at", at: millis{&a.CreatedAt}},
		{name: k.own, at: orNull{k.ownAt(a)}},
		{expr: k.sql(`(SELECT json_group_array(name)
			FROM (SELECT name FROM $kind_names WHERE $kind_id = $kinds.id ORDER BY rowid))`), at: asJSON{&a.Names}},
	}
}

// query reads artifacts; a condition may follow.
func (k *Kind) query() string { return k.columns(new(Artifact)).selectFrom(k.sql("$kinds")) }
