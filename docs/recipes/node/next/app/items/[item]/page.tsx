export default async function Item({ params }: { params: Promise<{ item: string }> }) {
  return <h1>Item {(await params).item}</h1>;
}
