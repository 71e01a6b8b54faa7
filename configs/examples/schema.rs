//! Prints the JSON Schema of run files: `cargo run -p tandem-config --example schema > configs/schema.json`.

fn main() {
    println!("{:#}", tandem_config::schema::schema());
}
