//! Prints the JSON Schema of run files, for configs/schema.json.

fn main() {
    println!("{:#}", tandem_config::schema::json::schema());
}
